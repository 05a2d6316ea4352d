"""Image libraries: images kept with their embeddings, found again by words or by example.

The gRPC side is `_service` and what it calls; `_store` and what stands below it know nothing of gRPC. Only `_store`,
`_table`, `_schema` and `_maintenance` import LanceDB and Arrow, which come with the extra `clipsr-gateway[library]`; so
nothing here may be imported before a library is wanted but `_disabled` and `_limits`.
"""
