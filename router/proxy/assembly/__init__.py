"""One JSON answer made out of an event stream, so that a client that leaves gives its slot back.

llama-server looks after the client of a request that is not streamed only when a whole second has passed without a
result of any slot (tools/server/server-queue.cpp, `recv_with_timeout`), so beside another stream it never does, and an
abandoned answer is generated to its end. No endpoint and no header cancels such a request. A streamed one it drops at
the next token. So an answer that may take long is asked for as a stream and put together here, into the document that
llama-server itself would have sent, down to the order of its keys.

That is done only where the stream tells everything that the document holds (`wish.py` says which requests those are);
all others are sent as they came. An answer that a stream nevertheless failed to tell is asked for again in the client's
own words. What may still differ lies at the very end of an answer that was cut off by its length: half of a character
(the document has U+FFFD there), and what llama-server holds back as a template's own stop word might begin so.
"""

from router.proxy.assembly.plan import Assembly, plan

__all__ = ["Assembly", "plan"]
