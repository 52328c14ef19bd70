SELECT digest FROM inbox WHERE session = ?1 AND key = ?2
