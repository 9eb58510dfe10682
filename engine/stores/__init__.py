"""The stores: each keeps the contract of `turnlog.engine.log`, and knows none of the others."""
