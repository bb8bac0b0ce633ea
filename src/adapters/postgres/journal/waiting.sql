SELECT count(*) FROM journal WHERE to_publish
