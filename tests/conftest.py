"""Its being here puts tests/ on the path, so that every test can import the helpers beside it."""
