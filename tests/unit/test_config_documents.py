"""docs/configuration.md, config.example.json and .env.example say what the code says."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from router.config import ApiConfig, ModelConfig, SystemConfig, load_settings, read_environment
from router.config.environment import VARIABLES
from router.config.flags import RULES
from router.config.names import MAX_LENGTH, RESERVED, RESERVED_ENDINGS

ROOT = Path(__file__).resolve().parents[2]
REFERENCE = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")


def rows(heading: str) -> list[list[str]]:
    """The cells of the first table below a heading, without its head."""
    _, _, section = REFERENCE.partition(f"\n{heading}\n")
    table = re.search(r"^\|.*\n\|[-|]+\n((?:\|.*\n)+)", section.partition("\n## ")[0], re.MULTILINE)
    assert table, f"no table below {heading}"
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table[1].splitlines()]


def default_as_documented(section: type[BaseModel], name: str) -> str:
    field = section.model_fields[name]
    if name == "discover_models":
        return "when `models` is empty"
    value = field.get_default(call_default_factory=True, validated_data={})
    if value is PydanticUndefined:
        return "required"
    if value is None:
        return "\N{EN DASH}"
    if isinstance(value, Path):
        value = str(value)
    if isinstance(value, BaseModel):
        return f"`{json.dumps({key: readable(one) for key, one in value.model_dump().items()})}`"
    return f"`{json.dumps(readable(value))}`"


def readable(value: Any) -> Any:
    """A whole number as people write it."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


@pytest.mark.parametrize(
    ("heading", "section"),
    [("## `api`", ApiConfig), ("## `system`", SystemConfig), ("## `models.<alias>`", ModelConfig)],
)
def test_every_key_is_documented_with_its_default(heading: str, section: type[BaseModel]) -> None:
    documented = {key.strip("`"): default for names, default, _ in rows(heading) for key in names.split(", ")}
    assert documented == {name: default_as_documented(section, name) for name in section.model_fields}


def test_every_flag_of_the_router_is_documented() -> None:
    documented = [
        (tuple(re.findall(r"`([^`]+)`", flags)), tuple(re.findall(r"`([^`]+)`", variables)))
        for flags, variables, _ in rows("### Flags that belong to the router")
    ]
    assert documented == [(rule.flags, rule.variables) for rule in RULES]


def test_every_reserved_name_is_documented() -> None:
    section = REFERENCE.partition("### Names")[2].partition("### ")[0]
    assert all(f"`{name}`" in section for name in (*RESERVED, *RESERVED_ENDINGS))
    assert str(MAX_LENGTH) in section


def test_every_variable_is_documented() -> None:
    assert [name.strip("`") for name, _ in rows("## Environment")] == list(VARIABLES)


def test_the_example_of_an_environment_names_every_variable_and_sets_none(tmp_path: Path) -> None:
    text = (ROOT / ".env.example").read_text(encoding="utf-8")
    assert re.findall(r"^([A-Z_]+)=$", text, re.MULTILINE) == list(VARIABLES)
    (tmp_path / ".env").write_text(text, encoding="utf-8")
    assert read_environment({}, tmp_path) == {}


def test_the_example_file_loads_and_shows_every_section(tmp_path: Path) -> None:
    example = ROOT / "config.example.json"
    document = json.loads(example.read_text(encoding="utf-8"))
    for model in document["models"].values():
        file = tmp_path / "models" / model["model_path"]
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    (tmp_path / "config.json").write_bytes(example.read_bytes())
    settings = load_settings(environ={}, cwd=tmp_path)
    assert list(settings.models) == list(document["models"])
    assert set(document) == {"api", "system", "models"}
    used = {key for model in document["models"].values() for key in model}
    assert used == set(ModelConfig.model_fields)
    assert settings.notes == ()


def test_the_json_in_the_reference_is_valid(tmp_path: Path) -> None:
    blocks = re.findall(r"```json\n(.*?)```", REFERENCE, re.DOTALL)
    assert blocks
    for block in blocks:
        sections = json.loads(block)
        ApiConfig.model_validate(sections.get("api", {}))
        for model in sections.get("models", {}).values():
            ModelConfig.model_validate(model)


def test_the_sample_report_is_what_the_code_says(tmp_path: Path) -> None:
    (tmp_path / "qwen.gguf").touch()
    (tmp_path / "config.json").write_text(
        '{"api": {"port": "8000"}, "system": {"idle_timout_sec": 600}, "models": {"qwen": {"model_path": "qwen.guf"}}}'
    )
    with pytest.raises(Exception, match="3 problems") as caught:
        load_settings(environ={}, cwd=tmp_path)
    expected = str(caught.value).replace(f"{tmp_path}/config.json", "config.json").replace(str(tmp_path), "/srv/models")
    assert expected in REFERENCE
