SELECT data FROM blobs WHERE digest = %(digest)s
