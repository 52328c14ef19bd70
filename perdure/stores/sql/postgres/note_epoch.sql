UPDATE counters SET value = greatest(value, %(epoch)s) WHERE name = 'epochs'
