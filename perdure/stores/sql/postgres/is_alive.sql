SELECT until > clock_timestamp() FROM nodes WHERE node = %(node)s
