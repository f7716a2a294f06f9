"""LangGraph's client, on the store of AgentKit's server at the URL that is given."""

import sys

from langgraph_sdk import get_sync_client

store = get_sync_client(url=sys.argv[1]).store
store.put_item(["users", "ada"], "prefs", {"theme": "dark", "size": 12})
store.put_item(["users", "bob"], "prefs", {"theme": "light"}, index=False, ttl=60)
item = store.get_item(["users", "ada"], "prefs")
assert item["value"] == {"theme": "dark", "size": 12}, item
assert (item["namespace"], item["key"]) == (["users", "ada"], "prefs"), item
assert item["created_at"] == item["updated_at"], item
assert store.get_item(["users", "ada"], "none") is None
found = store.search_items(["users"], filter={"size": {"$gt": 9}}, limit=5)["items"]
assert [item["namespace"] for item in found] == [["users", "ada"]], found
found = store.search_items(["users"], query="a light theme", refresh_ttl=False)["items"]
assert [item["namespace"] for item in found] == [["users", "bob"]] and found[0]["score"] > 0, found
listed = store.list_namespaces(prefix=["users"], max_depth=1)["namespaces"]
assert listed == [["users"]], listed
store.delete_item(["users", "ada"], "prefs")
assert [item["key"] for item in store.search_items(["users"])["items"]] == ["prefs"]
print("all is well")
