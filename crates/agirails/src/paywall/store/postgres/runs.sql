-- Version 7: how long handlers ran, by day of UTC and route. Days are counted from 1970 by the kernel's
-- clock.

CREATE TABLE agirails_paywall.runs (
    scope text COLLATE "C" NOT NULL,
    day bigint NOT NULL,
    route text COLLATE "C" NOT NULL,
    -- The bound of the histogram's bucket, in milliseconds; -1 for those beyond all bounds, and 0 for
    -- runs that failed, whose time says nothing.
    within_ms bigint NOT NULL,
    runs bigint NOT NULL,
    PRIMARY KEY (scope, day, route, within_ms)
) WITH (fillfactor = 50);
