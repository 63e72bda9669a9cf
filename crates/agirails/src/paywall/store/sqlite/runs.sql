-- How long handlers ran, by day of UTC and route. Days are counted from 1970 by the kernel's clock.
CREATE TABLE runs (
    day INTEGER NOT NULL,
    route TEXT NOT NULL,
    -- The bound of the histogram's bucket, in milliseconds; -1 for those beyond all bounds, and 0 for
    -- runs that failed, whose time says nothing.
    within_ms INTEGER NOT NULL,
    runs INTEGER NOT NULL,
    PRIMARY KEY (day, route, within_ms)
) WITHOUT ROWID;
