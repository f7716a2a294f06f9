import re
from urllib.parse import quote, urlencode

_PAIR = r"\s*(\w+)\s*=\s*('(?:[^'\\]|\\.)*'|(?:[^\s'\\]|\\.)*)"


def as_url(conn_string: str) -> str:
    """The URL of what libpq takes: `host=localhost dbname=agents`, or no host where it is local."""
    if not re.fullmatch(rf"(?:{_PAIR}(?=\s|$))+\s*", conn_string, re.DOTALL):
        # A host among the parameters wins over this one.
        return re.sub(r"^(postgres(?:ql)?://[^/?#@]*@)(?=[:/?]|$)", r"\1localhost", conn_string)
    pairs = []
    for key, value in re.findall(_PAIR, conn_string, re.DOTALL):
        unquoted = value[1:-1] if value.startswith("'") else value
        pairs.append((key, re.sub(r"\\(.)", r"\1", unquoted, flags=re.DOTALL)))
    return f"postgresql:///?{urlencode(pairs, quote_via=quote)}"
