-- clock_timestamp() and not now(): while the statement waited for another one on the row, time went on.
INSERT INTO leases (name, holder, until)
VALUES ($1, $2, clock_timestamp() + make_interval(secs => $3))
ON CONFLICT (name) DO UPDATE SET holder = excluded.holder, until = clock_timestamp() + make_interval(secs => $3)
WHERE leases.holder = excluded.holder OR leases.until <= clock_timestamp()
RETURNING name
