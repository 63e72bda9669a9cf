-- The steps on the paywall's tables, made anew with every version.
--
-- Every step is one function, so that it is one round trip and one transaction of its own. They
-- run under READ COMMITTED: whoever changes a payment locks its row first and its calls after it,
-- and reads the clock once the lock is there. Every function looks for operators and functions in
-- pg_catalog alone: whoever may create in another schema of the session's search_path could have his
-- own run as ours.

DO $$
DECLARE
    earlier regprocedure;
BEGIN
    FOR earlier IN SELECT oid FROM pg_proc WHERE pronamespace = 'agirails_paywall'::regnamespace LOOP
        EXECUTE format('DROP FUNCTION %s', earlier);
    END LOOP;
END
$$;

-- A time from now. Times come as microseconds.
CREATE FUNCTION agirails_paywall.after(moment timestamptz, microseconds bigint)
RETURNS timestamptz LANGUAGE sql IMMUTABLE
SET search_path = pg_catalog, pg_temp AS $$
    SELECT moment + microseconds * interval '1 microsecond'
$$;

CREATE FUNCTION agirails_paywall.microseconds(length interval)
RETURNS bigint LANGUAGE sql IMMUTABLE
SET search_path = pg_catalog, pg_temp AS $$
    SELECT greatest((extract(epoch FROM length) * 1000000)::bigint, 0)
$$;

-- In plpgsql, which plans it once a session; what is written in SQL alone is planned with every call.
CREATE FUNCTION agirails_paywall.add(p_scope text, p_names text[], p_values bigint[])
RETURNS void LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    INSERT INTO agirails_paywall.counter AS c (scope, name, part, value)
    SELECT p_scope, more.name, pg_backend_pid() % 64, more.value
    FROM unnest(p_names, p_values) AS more (name, value)
    -- In one order, so that two that add the same names do not lock each other out.
    ORDER BY more.name COLLATE "C"
    ON CONFLICT (scope, name, part) DO UPDATE SET value = c.value + excluded.value;
END
$$;

CREATE FUNCTION agirails_paywall.add_runs(
    p_scope text, p_days bigint[], p_routes text[], p_within bigint[], p_runs bigint[]
) RETURNS void LANGUAGE sql
SET search_path = pg_catalog, pg_temp AS $$
    INSERT INTO agirails_paywall.runs AS r (scope, day, route, within_ms, runs)
    SELECT p_scope, more.day, more.route, more.within_ms, more.runs
    FROM unnest(p_days, p_routes, p_within, p_runs) AS more (day, route, within_ms, runs)
    -- In one order, so that two that add the same rows do not lock each other out.
    ORDER BY more.day, more.route COLLATE "C", more.within_ms
    ON CONFLICT (scope, day, route, within_ms) DO UPDATE SET runs = r.runs + excluded.runs
$$;

-- Claims that come together, in the order of their payments' ids, and an outcome for each in that order;
-- what an outcome has no use for says nothing. Payments are locked in this order, here as everywhere, so
-- that no two transactions lock each other out; and each is written once, since every version of a row
-- makes the next one slower to find.
CREATE FUNCTION agirails_paywall.claims(
    p_scope text, p_ids bytea[], p_requesters bytea[], p_amounts bigint[], p_deadlines bigint[],
    p_windows bigint[], p_keys bytea[], p_digests bytea[], p_prices bigint[], p_leasts bigint[],
    p_owners bytea[], p_tickets bytea[], p_leases bigint[], p_bound boolean[], p_give_up_after bigint[],
    p_doublings bigint, p_piece integer, p_nets bigint[]
) RETURNS TABLE (
    outcome text, attempt integer, lease_left bigint, balance bigint, stage smallint,
    index bigint, content_hash bytea, answered_at bigint,
    status integer, header_names bytea[], header_values bytea[], body bytea, length bigint
) LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE
    v_id bytea;
    v_key bytea;
    known agirails_paywall.payment;
    call agirails_paywall.call;
    moment timestamptz;
    is_locked boolean;
    is_changed boolean;
    -- What this call holds already.
    held bigint;
BEGIN
    FOR place IN 1 .. cardinality(p_ids) LOOP
        IF p_ids[place] IS DISTINCT FROM v_id THEN
            v_id := p_ids[place];
            is_locked := false;
            is_changed := false;
        END IF;
        v_key := p_keys[place];
        held := 0;
        <<judged>>
        BEGIN
            SELECT * INTO call FROM agirails_paywall.call c
            WHERE c.scope = p_scope AND c.payment = v_id AND c.key = v_key;
            -- An answer is final: it needs no lock, and leaves nothing to commit.
            IF call.state IS DISTINCT FROM 2 THEN
                WHILE NOT is_locked LOOP
                    SELECT * INTO known FROM agirails_paywall.payment p
                    WHERE p.scope = p_scope AND p.id = v_id FOR UPDATE;
                    is_locked := FOUND;
                    EXIT WHEN is_locked OR p_amounts[place] < greatest(p_leasts[place], p_prices[place]);
                    INSERT INTO agirails_paywall.payment
                        (scope, id, requester, amount, deadline, window_seconds, stage, keyed, bound, net)
                    VALUES (p_scope, v_id, p_requesters[place], p_amounts[place], p_deadlines[place],
                        p_windows[place], 0, length(v_key) > 0, p_bound[place], p_nets[place])
                    ON CONFLICT DO NOTHING;
                END LOOP;
                IF NOT is_locked THEN
                    outcome := 'no_balance';
                    balance := p_amounts[place];
                    EXIT judged;
                END IF;
                SELECT * INTO call FROM agirails_paywall.call c
                WHERE c.scope = p_scope AND c.payment = v_id AND c.key = v_key FOR UPDATE;
                moment := clock_timestamp();
            END IF;

            IF call.digest <> p_digests[place] THEN
                outcome := 'other_request';
                EXIT judged;
            END IF;
            IF call.state = 2 THEN
                outcome := 'answered';
                index := call.index;
                content_hash := call.content_hash;
                answered_at := call.answered_at;
                status := call.status;
                header_names := call.header_names;
                header_values := call.header_values;
                length := octet_length(call.body);
                body := CASE WHEN length <= p_piece THEN call.body END;
                EXIT judged;
            END IF;
            IF call.state = 1 THEN
                IF call.ticket = p_tickets[place] THEN
                    outcome := 'run';
                    attempt := call.attempt;
                    EXIT judged;
                END IF;
                IF call.leased_until > moment THEN
                    outcome := 'running';
                    lease_left := agirails_paywall.microseconds(call.leased_until - moment);
                    EXIT judged;
                END IF;
                held := call.price;
            END IF;
            IF known.stage <> 0 THEN
                outcome := 'closed';
                stage := known.stage;
                EXIT judged;
            END IF;
            IF known.keyed IS DISTINCT FROM (length(v_key) > 0) THEN
                outcome := 'other_kind';
                EXIT judged;
            END IF;
            IF known.failures >= p_give_up_after[place] THEN
                lease_left := agirails_paywall.microseconds(known.failed_at - moment
                    + 2 ^ least(known.failures - p_give_up_after[place], p_doublings)
                        * interval '1 second');
                IF lease_left > 0 THEN
                    outcome := 'resting';
                    EXIT judged;
                END IF;
            END IF;
            balance := known.amount - known.spent - known.reserved + held;
            IF balance < p_prices[place] THEN
                outcome := 'no_balance';
                EXIT judged;
            END IF;

            known.reserved := known.reserved - held + p_prices[place];
            IF call.state = 1 THEN
                -- A run that got lost is one that failed.
                known.failures := known.failures + 1;
                known.failed_at := moment;
            ELSE
                known.running := known.running + 1;
            END IF;
            is_changed := true;
            attempt := coalesce(call.attempt, 0) + 1;
            INSERT INTO agirails_paywall.call AS c
                (scope, payment, key, digest, state, owner, attempt, ticket, price, leased_until)
            VALUES (p_scope, v_id, v_key, p_digests[place], 1, p_owners[place], attempt,
                p_tickets[place], p_prices[place], moment + p_leases[place] * interval '1 microsecond')
            ON CONFLICT (scope, payment, key) DO UPDATE
            SET state = 1, owner = excluded.owner, attempt = excluded.attempt, ticket = excluded.ticket,
                price = excluded.price, leased_until = excluded.leased_until;
            outcome := 'run';
        END;
        RETURN NEXT;
        IF is_changed AND p_ids[place + 1] IS DISTINCT FROM v_id THEN
            UPDATE agirails_paywall.payment p
            SET reserved = known.reserved, running = known.running, failures = known.failures,
                failed_at = known.failed_at
            WHERE p.scope = p_scope AND p.id = v_id;
        END IF;
    END LOOP;
END
$$;

CREATE FUNCTION agirails_paywall.renew(
    p_scope text, p_payments bytea[], p_keys bytea[], p_owners bytea[], p_attempts integer[], p_lease bigint
) RETURNS void LANGUAGE sql
SET search_path = pg_catalog, pg_temp AS $$
    UPDATE agirails_paywall.call c
    SET leased_until = agirails_paywall.after(clock_timestamp(), p_lease)
    FROM unnest(p_payments, p_keys, p_owners, p_attempts) AS mine (payment, key, owner, attempt)
    WHERE c.scope = p_scope AND c.payment = mine.payment AND c.key = mine.key
        AND c.owner = mine.owner AND c.attempt = mine.attempt AND c.state = 1
$$;

-- Answers that come together, each with its place among them. The stage the payment is at now, and how
-- many calls were answered before: NULL where it was closed meanwhile. Both NULL where the claim is not the
-- latest attempt any more. Headers stand one behind the other: where each answer's begin, and how many
-- they are. Payments come as in claims, the books last, again in one order.
CREATE FUNCTION agirails_paywall.answers(
    p_scope text, p_ids bytea[], p_keys bytea[], p_owners bytea[], p_attempts integer[],
    p_content_hashes bytea[], p_answered_at bigint[], p_statuses integer[],
    p_header_names bytea[], p_header_values bytea[], p_headers_from integer[], p_headers integer[],
    p_bodies bytea[], p_close_below bigint[], p_routes text[], p_requests bytea[], p_request_bodies bytea[],
    p_calls_counters text[], p_revenue_counters text[]
) RETURNS TABLE (stage smallint, earlier bigint) LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE
    v_id bytea;
    v_key bytea;
    v_price bigint;
    known agirails_paywall.payment;
    moment timestamptz;
    is_changed boolean;
    -- What is to be booked of each answer, and of whom; NULL where it is none, or was booked before.
    v_took bigint[] := array_fill(NULL::bigint, ARRAY[cardinality(p_ids)]);
    v_requesters bytea[] := array_fill(NULL::bytea, ARRAY[cardinality(p_ids)]);
BEGIN
    FOR place IN 1 .. cardinality(p_ids) LOOP
        IF p_ids[place] IS DISTINCT FROM v_id THEN
            v_id := p_ids[place];
            SELECT * INTO known FROM agirails_paywall.payment p
            WHERE p.scope = p_scope AND p.id = v_id FOR UPDATE;
            moment := clock_timestamp();
            is_changed := false;
        END IF;
        v_key := p_keys[place];
        stage := NULL;
        earlier := NULL;
        UPDATE agirails_paywall.call c
        SET state = 2, index = known.calls, content_hash = p_content_hashes[place],
            answered_at = p_answered_at[place], status = p_statuses[place],
            header_names = p_header_names[p_headers_from[place]
                : p_headers_from[place] + p_headers[place] - 1],
            header_values = p_header_values[p_headers_from[place]
                : p_headers_from[place] + p_headers[place] - 1],
            body = p_bodies[place], route = p_routes[place]
        WHERE c.scope = p_scope AND c.payment = v_id AND c.key = v_key AND c.state = 1
            AND c.owner = p_owners[place] AND c.attempt = p_attempts[place] AND known.stage = 0
        RETURNING c.price INTO v_price;
        IF FOUND THEN
            IF p_requests[place] IS NOT NULL THEN
                INSERT INTO agirails_paywall.request (scope, payment, key, request, body)
                VALUES (p_scope, v_id, v_key, p_requests[place], p_request_bodies[place]);
            END IF;
            earlier := known.calls;
            IF known.amount - known.spent - v_price < p_close_below[place] AND known.running = 1 THEN
                known.stage := 1;
                known.owed_since := moment;
                known.due_at := moment;
            END IF;
            stage := known.stage;
            known.spent := known.spent + v_price;
            known.reserved := known.reserved - v_price;
            known.calls := known.calls + 1;
            known.running := known.running - 1;
            known.answered_at := greatest(known.answered_at, p_answered_at[place]);
            is_changed := true;
            v_took[place] := v_price;
            v_requesters[place] := known.requester;
        ELSE
            -- The payment was closed meanwhile, or it is the same answer once more, because the word
            -- that it is kept got lost.
            SELECT known.stage, c.index INTO stage, earlier FROM agirails_paywall.call c
            WHERE c.scope = p_scope AND c.payment = v_id AND c.key = v_key
                AND c.owner = p_owners[place] AND c.attempt = p_attempts[place]
                AND (c.state = 1 OR c.state = 2 AND c.content_hash = p_content_hashes[place]
                    AND c.answered_at = p_answered_at[place]);
        END IF;
        RETURN NEXT;
        IF is_changed AND p_ids[place + 1] IS DISTINCT FROM v_id THEN
            UPDATE agirails_paywall.payment p
            SET spent = known.spent, reserved = known.reserved, calls = known.calls,
                running = known.running, failures = 0, answered_at = known.answered_at,
                stage = known.stage, owed_since = known.owed_since, due_at = known.due_at
            WHERE p.scope = p_scope AND p.id = v_id;
        END IF;
    END LOOP;
    PERFORM agirails_paywall.add(p_scope, array_agg(more.name), array_agg(more.value)) FROM (
        SELECT c.name, sum(c.value)::bigint AS value
        FROM unnest(v_took, p_calls_counters, p_revenue_counters) AS b (took, calls, revenue),
            LATERAL (VALUES (b.calls, 1), (b.revenue, b.took)) AS c (name, value)
        WHERE b.took IS NOT NULL GROUP BY c.name
    ) more;
    INSERT INTO agirails_paywall.books AS b (scope, day, route, requester, calls, gross)
    SELECT p_scope, o.answered_at / 86400, o.route, o.requester, count(*), sum(o.took)
    FROM unnest(v_took, v_requesters, p_answered_at, p_routes) AS o (took, requester, answered_at, route)
    WHERE o.took IS NOT NULL
    GROUP BY 2, 3, 4 ORDER BY 2, o.route COLLATE "C", 4
    ON CONFLICT (scope, day, route, requester) DO UPDATE
    SET calls = b.calls + excluded.calls, gross = b.gross + excluded.gross;
END
$$;

-- The stage the payment is at now, and how many calls were answered before: NULL where it was closed
-- meanwhile. Both NULL where the claim is not the latest attempt any more.
CREATE FUNCTION agirails_paywall.release(
    p_scope text, p_id bytea, p_key bytea, p_owner bytea, p_attempt integer, p_give_up_after bigint,
    OUT stage smallint, OUT place bigint
) LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE
    known agirails_paywall.payment;
    call agirails_paywall.call;
    target smallint := 0;
    moment timestamptz;
BEGIN
    SELECT * INTO known FROM agirails_paywall.payment p
    WHERE p.scope = p_scope AND p.id = p_id FOR UPDATE;
    SELECT * INTO call FROM agirails_paywall.call c
    WHERE c.scope = p_scope AND c.payment = p_id AND c.key = p_key FOR UPDATE;
    IF NOT FOUND OR call.owner <> p_owner OR call.attempt <> p_attempt THEN
        RETURN;
    END IF;
    -- Once more, because the word that it was done got lost.
    IF call.state = 0 THEN
        stage := known.stage;
        place := known.calls;
        RETURN;
    END IF;
    IF call.state <> 1 THEN
        RETURN;
    END IF;
    IF known.stage <> 0 THEN
        stage := known.stage;
        RETURN;
    END IF;

    moment := clock_timestamp();
    IF known.failures + 1 >= p_give_up_after AND known.calls = 0 AND known.running = 1 THEN
        target := CASE WHEN known.bound THEN 3 ELSE 6 END;
    END IF;
    UPDATE agirails_paywall.call c SET state = 0
    WHERE c.scope = p_scope AND c.payment = p_id AND c.key = p_key;
    UPDATE agirails_paywall.payment p
    SET reserved = p.reserved - call.price, running = p.running - 1,
        failures = p.failures + 1, failed_at = moment,
        stage = target,
        owed_since = CASE WHEN target = 3 THEN moment END,
        due_at = CASE WHEN target = 3 THEN moment END,
        ended_at = CASE WHEN target = 6 THEN moment END
    WHERE p.scope = p_scope AND p.id = p_id;
    stage := target;
    place := known.calls;
END
$$;

-- The stage the payment is at now; NULL where it is unknown.
CREATE FUNCTION agirails_paywall.close(p_scope text, p_id bytea) RETURNS smallint LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE
    known agirails_paywall.payment;
    moment timestamptz;
    target smallint;
BEGIN
    SELECT * INTO known FROM agirails_paywall.payment p
    WHERE p.scope = p_scope AND p.id = p_id FOR UPDATE;
    IF NOT FOUND THEN
        RETURN NULL;
    END IF;
    IF known.stage <> 0 THEN
        RETURN known.stage;
    END IF;
    moment := clock_timestamp();
    -- A claim whose lease is over runs no more, as far as anybody knows.
    IF known.running > 0 AND EXISTS (
        SELECT FROM agirails_paywall.call c
        WHERE c.scope = p_scope AND c.payment = p_id AND c.state = 1 AND c.leased_until > moment
    ) THEN
        RETURN 0;
    END IF;
    IF known.calls = 0 AND NOT known.bound THEN
        RETURN 0;
    END IF;
    target := CASE WHEN known.calls > 0 THEN 1 ELSE 3 END;
    UPDATE agirails_paywall.payment p SET stage = target, owed_since = moment, due_at = moment
    WHERE p.scope = p_scope AND p.id = p_id;
    RETURN target;
END
$$;

CREATE FUNCTION agirails_paywall.close_expiring(p_scope text, p_deadline bigint)
RETURNS bigint LANGUAGE sql
SET search_path = pg_catalog, pg_temp AS $$
    WITH expiring AS (
        SELECT p.id FROM agirails_paywall.payment p
        WHERE p.scope = p_scope AND p.stage = 0 AND p.deadline <= p_deadline
        ORDER BY p.id FOR UPDATE
    ), closed AS (
        UPDATE agirails_paywall.payment p
        SET stage = CASE WHEN p.calls > 0 THEN 1 WHEN p.bound THEN 3 ELSE 6 END,
            owed_since = clock_timestamp(), due_at = clock_timestamp(), ended_at = clock_timestamp()
        FROM expiring WHERE p.scope = p_scope AND p.id = expiring.id
        RETURNING 1
    )
    SELECT count(*) FROM closed
$$;

CREATE FUNCTION agirails_paywall.close_idle(p_scope text, p_answered_at bigint)
RETURNS bigint LANGUAGE sql
SET search_path = pg_catalog, pg_temp AS $$
    WITH idle AS (
        SELECT p.id FROM agirails_paywall.payment p
        WHERE p.scope = p_scope AND p.stage = 0 AND p.calls > 0 AND p.answered_at <= p_answered_at
        ORDER BY p.id FOR UPDATE
    ), closed AS (
        UPDATE agirails_paywall.payment p
        SET stage = 1, owed_since = clock_timestamp(), due_at = clock_timestamp()
        -- Asked where something runs alone, or the calls of all balances would be read.
        FROM idle WHERE p.scope = p_scope AND p.id = idle.id AND (p.running = 0 OR NOT EXISTS (
            SELECT FROM agirails_paywall.call c WHERE c.scope = p_scope AND c.payment = p.id
                AND c.state = 1 AND c.leased_until > clock_timestamp()
        ))
        RETURNING 1
    )
    SELECT count(*) FROM closed
$$;

-- The stage the payment is at now; NULL where it is unknown.
CREATE FUNCTION agirails_paywall.overtake(
    p_scope text, p_id bytea, p_unserved smallint, p_served smallint, p_trouble text,
    p_unserved_event text, p_served_event text
) RETURNS smallint LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    known agirails_paywall.payment;
    target smallint;
BEGIN
    SELECT * INTO known FROM agirails_paywall.payment p
    WHERE p.scope = p_scope AND p.id = p_id FOR UPDATE;
    IF NOT FOUND THEN
        RETURN NULL;
    END IF;
    IF known.stage <> 0 THEN
        RETURN known.stage;
    END IF;
    target := CASE WHEN known.calls > 0 THEN p_served ELSE p_unserved END;
    UPDATE agirails_paywall.payment p
    SET stage = target, trouble = p_trouble, ended_at = clock_timestamp()
    WHERE p.scope = p_scope AND p.id = p_id;
    PERFORM agirails_paywall.keep_webhook(p_scope, known,
        CASE WHEN known.calls > 0 THEN p_served_event ELSE p_unserved_event END,
        extract(epoch FROM clock_timestamp())::bigint, NULL, 0);
    RETURN target;
END
$$;

CREATE FUNCTION agirails_paywall.give_back(
    p_scope text, p_id bytea, p_requester bytea, p_amount bigint, p_deadline bigint, p_window bigint,
    p_bound boolean, p_net bigint
) RETURNS void LANGUAGE sql
SET search_path = pg_catalog, pg_temp AS $$
    INSERT INTO agirails_paywall.payment
        (scope, id, requester, amount, deadline, window_seconds, bound, net, stage, owed_since, due_at)
    VALUES (p_scope, p_id, p_requester, p_amount, p_deadline, p_window, p_bound, p_net, 3,
        clock_timestamp(), clock_timestamp())
    ON CONFLICT DO NOTHING
$$;

-- The stage the payment is at now.
CREATE FUNCTION agirails_paywall.refund(
    p_scope text, p_id bytea, p_requester bytea, p_amount bigint, p_deadline bigint, p_window bigint,
    p_bound boolean, p_net bigint
) RETURNS smallint LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    known agirails_paywall.payment;
BEGIN
    PERFORM agirails_paywall.give_back(
        p_scope, p_id, p_requester, p_amount, p_deadline, p_window, p_bound, p_net);
    SELECT * INTO known FROM agirails_paywall.payment p
    WHERE p.scope = p_scope AND p.id = p_id FOR UPDATE;
    IF known.stage NOT IN (0, 5, 6) THEN
        RETURN known.stage;
    END IF;
    UPDATE agirails_paywall.payment p
    SET stage = 3, owed_since = clock_timestamp(), due_at = clock_timestamp(), tries = 0, trouble = NULL,
        ended_at = NULL
    WHERE p.scope = p_scope AND p.id = p_id;
    RETURN 3;
END
$$;

-- The service's id: the first that anybody proposed.
CREATE FUNCTION agirails_paywall.service(p_scope text, p_fresh bytea) RETURNS bytea LANGUAGE sql
SET search_path = pg_catalog, pg_temp AS $$
    INSERT INTO agirails_paywall.meta (scope, name, value) VALUES (p_scope, 'service', p_fresh)
    ON CONFLICT DO NOTHING;
    SELECT m.value FROM agirails_paywall.meta m WHERE m.scope = p_scope AND m.name = 'service'
$$;

-- Those whose time has come, the nearest deadline first.
CREATE FUNCTION agirails_paywall.duties(p_scope text, p_stage smallint, p_limit bigint)
RETURNS TABLE (
    id bytea, requester bytea, amount bigint, deadline bigint, window_seconds bigint, net bigint,
    bound boolean, stage smallint, content_hash bytea, answered_at bigint, tries integer, age bigint,
    settle_at bigint
) LANGUAGE sql
SET search_path = pg_catalog, pg_temp AS $$
    SELECT p.id, p.requester, p.amount, p.deadline, p.window_seconds, p.net, p.bound,
        p.stage, p.content_hash, p.answered_at, p.tries,
        agirails_paywall.microseconds(clock_timestamp() - p.owed_since), p.settle_at
    FROM agirails_paywall.payment p
    -- Both stages are named, as the index names them.
    WHERE p.scope = p_scope AND p.stage = p_stage AND p.stage IN (1, 3)
        AND p.due_at <= clock_timestamp()
    ORDER BY p.deadline
    LIMIT p_limit
$$;

-- Those that can be settled by now, for which it is worth it and whose next try has come.
CREATE FUNCTION agirails_paywall.settlements(p_scope text, p_now bigint, p_least bigint, p_limit bigint)
RETURNS TABLE (
    id bytea, requester bytea, amount bigint, deadline bigint, window_seconds bigint, net bigint,
    bound boolean, stage smallint, content_hash bytea, answered_at bigint, tries integer, age bigint,
    settle_at bigint
) LANGUAGE sql
SET search_path = pg_catalog, pg_temp AS $$
    SELECT p.id, p.requester, p.amount, p.deadline, p.window_seconds, p.net, p.bound,
        p.stage, p.content_hash, p.answered_at, p.tries,
        agirails_paywall.microseconds(clock_timestamp() - p.ended_at), p.settle_at
    FROM agirails_paywall.payment p
    WHERE p.scope = p_scope AND p.stage = 2 AND p.settle_at < p_now AND p.net >= p_least
        AND (p.due_at IS NULL OR p.due_at <= clock_timestamp())
    ORDER BY p.settle_at
    LIMIT p_limit
$$;

-- Whether it was at that stage. What a move adds to the books is shared out among the routes by what their
-- calls took, rounded down; the rest, and what cannot be shared, is the first route's.
CREATE FUNCTION agirails_paywall.settle(
    p_scope text, p_id bytea, p_stage smallint, p_to smallint, p_after bigint, p_trouble text,
    p_at bigint, p_settle_at bigint, p_arrived bigint, p_fee bigint, p_counters text[], p_values bigint[],
    p_event text
) RETURNS boolean LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    known agirails_paywall.payment;
    -- In the order of the counters: settled, paid out, fee, net, gas, refunded, disputed.
    v_paid_out bigint := 0;
    v_net bigint := 0;
    v_gas bigint := p_values[5];
BEGIN
    SELECT * INTO known FROM agirails_paywall.payment p
    WHERE p.scope = p_scope AND p.id = p_id FOR UPDATE;
    IF NOT FOUND OR known.stage <> p_stage THEN
        RETURN false;
    END IF;
    PERFORM agirails_paywall.move(p_scope, p_id, p_stage, p_to, p_after, p_trouble);
    IF p_to IS NULL THEN
        RETURN true;
    END IF;
    UPDATE agirails_paywall.payment p
    SET gas = p.gas + v_gas,
        delivered_at = CASE WHEN p_to = 2 THEN p_at ELSE p.delivered_at END,
        settle_at = CASE WHEN p_to = 2 THEN p_settle_at ELSE p.settle_at END,
        settled_at = CASE WHEN p_to = 7 THEN p_at ELSE p.settled_at END,
        arrived = p_arrived, fee = p_fee
    WHERE p.scope = p_scope AND p.id = p_id;
    PERFORM agirails_paywall.keep_webhook(p_scope, known, p_event, p_at, p_arrived, v_gas);
    -- A chain may take a settlement back, and a node may have made one up: it is booked once.
    IF p_to = 7 AND known.settled_at > 0 THEN
        p_values[1] := 0;
    ELSIF p_arrived IS NOT NULL THEN
        v_paid_out := p_arrived + p_fee;
        v_net := p_arrived;
    END IF;
    IF p_values = ARRAY[0, 0, 0, 0, 0, 0, 0]::bigint[] AND v_paid_out = 0 THEN
        RETURN true;
    END IF;
    PERFORM agirails_paywall.add(p_scope, p_counters, ARRAY[p_values[1], v_paid_out,
        greatest(v_paid_out - v_net, 0), v_net, v_gas, p_values[6], p_values[7]]);
    WITH routes AS (
        SELECT c.route, sum(c.price) AS took,
            row_number() OVER (ORDER BY sum(c.price) DESC, c.route) AS place
        FROM agirails_paywall.call c
        WHERE c.scope = p_scope AND c.payment = p_id AND c.state = 2
        GROUP BY c.route
    ), shares AS (
        SELECT r.route, r.place,
            div(v_paid_out * r.took, greatest(sum(r.took) OVER (), 1)) AS paid_out,
            div(v_net * r.took, greatest(sum(r.took) OVER (), 1)) AS net
        FROM routes r
        UNION ALL
        SELECT '', 1, 0, 0 WHERE NOT EXISTS (SELECT FROM routes)
    ), whole AS (
        SELECT s.route, s.place,
            CASE WHEN s.place = 1 THEN v_paid_out - sum(s.paid_out) OVER () + s.paid_out
                ELSE s.paid_out END AS paid_out,
            CASE WHEN s.place = 1 THEN v_net - sum(s.net) OVER () + s.net ELSE s.net END AS net
        FROM shares s
    )
    INSERT INTO agirails_paywall.books AS b
        (scope, day, route, requester, settled, paid_out, fee, net, gas, refunded, disputed)
    SELECT p_scope, p_at / 86400, w.route, known.requester,
        CASE WHEN w.place = 1 THEN p_values[1] ELSE 0 END,
        w.paid_out, greatest(w.paid_out - w.net, 0), w.net,
        CASE WHEN w.place = 1 THEN v_gas ELSE 0 END,
        CASE WHEN w.place = 1 THEN p_values[6] ELSE 0 END,
        CASE WHEN w.place = 1 THEN p_values[7] ELSE 0 END
    FROM whole w ORDER BY w.route
    ON CONFLICT (scope, day, route, requester) DO UPDATE
    SET settled = b.settled + excluded.settled, paid_out = b.paid_out + excluded.paid_out,
        fee = b.fee + excluded.fee, net = b.net + excluded.net, gas = b.gas + excluded.gas,
        refunded = b.refunded + excluded.refunded, disputed = b.disputed + excluded.disputed;
    RETURN true;
END
$$;

-- Gas that bought nothing stands in the books with the route that took most, as the gas of other moves does.
CREATE FUNCTION agirails_paywall.spend(p_scope text, p_id bytea, p_at bigint, p_gas bigint, p_counter text)
RETURNS void LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_requester bytea;
BEGIN
    UPDATE agirails_paywall.payment p SET gas = p.gas + p_gas
    WHERE p.scope = p_scope AND p.id = p_id RETURNING p.requester INTO v_requester;
    IF NOT FOUND THEN
        RETURN;
    END IF;
    PERFORM agirails_paywall.add(p_scope, ARRAY[p_counter], ARRAY[p_gas]);
    INSERT INTO agirails_paywall.books AS b (scope, day, route, requester, gas)
    VALUES (p_scope, p_at / 86400, coalesce((
        SELECT c.route FROM agirails_paywall.call c
        WHERE c.scope = p_scope AND c.payment = p_id AND c.state = 2
        GROUP BY c.route ORDER BY sum(c.price) DESC, c.route LIMIT 1), ''), v_requester, p_gas)
    ON CONFLICT (scope, day, route, requester) DO UPDATE SET gas = b.gas + excluded.gas;
END
$$;

-- Whether it was at that stage.
CREATE FUNCTION agirails_paywall.not_before(p_scope text, p_id bytea, p_stage smallint, p_settle_at bigint)
RETURNS bigint LANGUAGE sql
SET search_path = pg_catalog, pg_temp AS $$
    WITH told AS (
        UPDATE agirails_paywall.payment p SET settle_at = p_settle_at
        WHERE p.scope = p_scope AND p.id = p_id AND p.stage = p_stage
        RETURNING 1
    )
    SELECT count(*) FROM told
$$;

CREATE FUNCTION agirails_paywall.move(
    p_scope text, p_id bytea, p_stage smallint, p_to smallint, p_after bigint, p_trouble text
) RETURNS void LANGUAGE sql
SET search_path = pg_catalog, pg_temp AS $$
    UPDATE agirails_paywall.payment p
    SET trouble = p_trouble,
        stage = coalesce(p_to, p.stage),
        tries = CASE WHEN p_to IS NULL THEN p.tries + 1 WHEN p_to IN (1, 2, 3) THEN 0 ELSE p.tries END,
        owed_since = CASE WHEN p_to IN (1, 3) THEN clock_timestamp() ELSE p.owed_since END,
        due_at = CASE
            WHEN p_to IS NULL THEN agirails_paywall.after(clock_timestamp(), p_after)
            WHEN p_to IN (1, 2, 3) THEN clock_timestamp()
            ELSE p.due_at
        END,
        ended_at = CASE
            WHEN p_to IS NULL THEN p.ended_at
            WHEN p_to IN (2, 4, 5, 6, 7, 8) THEN clock_timestamp()
        END
    WHERE p.scope = p_scope AND p.id = p_id AND p.stage = p_stage;
    -- Failed runs of what has ended are of no use to anybody.
    DELETE FROM agirails_paywall.call c
    WHERE p_to IN (2, 4, 5, 6, 7, 8) AND c.scope = p_scope AND c.payment = p_id AND c.state = 0
        AND EXISTS (SELECT FROM agirails_paywall.payment p
            WHERE p.scope = p_scope AND p.id = p_id AND p.stage = p_to)
$$;

-- Keeps the event of a move until the application was told; none where it has no name.
CREATE FUNCTION agirails_paywall.keep_webhook(
    p_scope text, p_payment agirails_paywall.payment, p_event text, p_at bigint, p_net bigint, p_gas bigint
) RETURNS void LANGUAGE sql
SET search_path = pg_catalog, pg_temp AS $$
    INSERT INTO agirails_paywall.webhook (scope, payment, requester, amount, name, at, net, gas)
    SELECT p_scope, p_payment.id, p_payment.requester, p_payment.amount, p_event, p_at, p_net, p_gas
    WHERE p_event IS NOT NULL
$$;

CREATE FUNCTION agirails_paywall.expire_webhooks(p_scope text, p_age bigint, p_most bigint)
RETURNS bigint LANGUAGE sql
SET search_path = pg_catalog, pg_temp AS $$
    WITH gone AS (
        DELETE FROM agirails_paywall.webhook w
        WHERE w.scope = p_scope AND (
            w.since < agirails_paywall.after(clock_timestamp(), -p_age)
            OR w.number <= (
                SELECT e.number FROM agirails_paywall.webhook e WHERE e.scope = p_scope
                ORDER BY e.number DESC OFFSET p_most LIMIT 1))
        RETURNING 1
    )
    SELECT count(*) FROM gone
$$;

CREATE FUNCTION agirails_paywall.take_lease(p_scope text, p_name text, p_owner bytea, p_lease bigint)
RETURNS bigint LANGUAGE sql
SET search_path = pg_catalog, pg_temp AS $$
    WITH taken AS (
        INSERT INTO agirails_paywall.lease AS l (scope, name, owner, leased_until)
        VALUES (p_scope, p_name, p_owner, agirails_paywall.after(clock_timestamp(), p_lease))
        ON CONFLICT (scope, name) DO UPDATE
        SET owner = excluded.owner,
            leased_until = agirails_paywall.after(clock_timestamp(), p_lease)
        WHERE l.owner = excluded.owner OR l.leased_until <= clock_timestamp()
        RETURNING 1
    )
    SELECT count(*) FROM taken
$$;

CREATE FUNCTION agirails_paywall.backlog(
    p_scope text, p_now bigint, p_least bigint,
    OUT deliveries bigint, OUT returns bigint, OUT open bigint, OUT lost bigint,
    OUT oldest bigint, OUT trouble text,
    OUT delivered bigint, OUT due bigint, OUT small bigint, OUT due_since bigint, OUT disputed bigint,
    OUT expected bigint, OUT next_at bigint,
    OUT webhooks bigint
) LANGUAGE sql
SET search_path = pg_catalog, pg_temp AS $$
    -- The stages are named as the indexes name them, which are small beside what has ended.
    SELECT owed.deliveries, owed.returns, followed.open,
        (SELECT count(*) FROM agirails_paywall.payment p WHERE p.scope = p_scope AND p.stage = 5),
        coalesce(agirails_paywall.microseconds(clock_timestamp() - owed.since), 0),
        (SELECT p.trouble FROM agirails_paywall.payment p
            WHERE p.scope = p_scope AND p.stage IN (1, 3) AND p.trouble IS NOT NULL
            ORDER BY p.owed_since LIMIT 1),
        followed.delivered, waiting.due, waiting.small, waiting.due_since, followed.disputed,
        (owed.net + waiting.net)::bigint, waiting.next_at,
        (SELECT count(*) FROM agirails_paywall.webhook w WHERE w.scope = p_scope)
    FROM (
        SELECT count(*) FILTER (WHERE p.stage = 1) AS deliveries,
            count(*) FILTER (WHERE p.stage = 3) AS returns,
            min(p.owed_since) AS since,
            coalesce(sum(p.net) FILTER (WHERE p.stage = 1), 0) AS net
        FROM agirails_paywall.payment p WHERE p.scope = p_scope AND p.stage IN (1, 3)
    ) owed, (
        SELECT count(*) FILTER (WHERE p.stage = 0) AS open,
            count(*) FILTER (WHERE p.stage = 2) AS delivered,
            count(*) FILTER (WHERE p.stage = 8) AS disputed
        FROM agirails_paywall.payment p WHERE p.scope = p_scope AND p.stage IN (0, 2, 8)
    ) followed, (
        SELECT count(*) FILTER (WHERE p.settle_at < p_now) AS due,
            count(*) FILTER (WHERE p.settle_at < p_now AND p.net < p_least) AS small,
            min(p.settle_at) FILTER (WHERE p.settle_at < p_now AND p.net >= p_least) AS due_since,
            min(p.settle_at) FILTER (WHERE p.settle_at >= p_now) AS next_at,
            coalesce(sum(p.net), 0) AS net
        FROM agirails_paywall.payment p WHERE p.scope = p_scope AND p.stage = 2
    ) waiting
$$;

-- None whose deadline is not over: its id could be spent again.
CREATE FUNCTION agirails_paywall.prune(p_scope text, p_age bigint, p_now bigint, p_limit bigint)
RETURNS bigint LANGUAGE sql
SET search_path = pg_catalog, pg_temp AS $$
    WITH old AS (
        SELECT p.id FROM agirails_paywall.payment p
        WHERE p.scope = p_scope AND p.stage IN (4, 5, 6, 7)
            -- Asked once, or the index cannot tell where to stop.
            AND p.ended_at < (SELECT agirails_paywall.after(clock_timestamp(), -p_age))
            AND p.deadline < p_now
        ORDER BY p.ended_at LIMIT p_limit
        -- What another process forgets already is left to it.
        FOR UPDATE SKIP LOCKED
    ), trees AS (
        DELETE FROM agirails_paywall.tree t USING old WHERE t.scope = p_scope AND t.payment = old.id
    ), requests AS (
        DELETE FROM agirails_paywall.request r USING old WHERE r.scope = p_scope AND r.payment = old.id
    ), calls AS (
        DELETE FROM agirails_paywall.call c USING old WHERE c.scope = p_scope AND c.payment = old.id
    ), payments AS (
        DELETE FROM agirails_paywall.payment p USING old WHERE p.scope = p_scope AND p.id = old.id
        RETURNING 1
    )
    SELECT count(*) FROM payments
$$;

-- What an earlier version kept under the first digits of the addresses is the first one's who comes
-- for it. Leases are none of it: they end by themselves.
CREATE FUNCTION agirails_paywall.adopt(p_former text, p_scope text) RETURNS void LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM agirails_paywall.payment p WHERE p.scope = p_former)
        AND NOT EXISTS (SELECT FROM agirails_paywall.counter c WHERE c.scope = p_former) THEN
        RETURN;
    END IF;
    UPDATE agirails_paywall.payment SET scope = p_scope WHERE scope = p_former;
    UPDATE agirails_paywall.call SET scope = p_scope WHERE scope = p_former;
    UPDATE agirails_paywall.meta m SET scope = p_scope
    WHERE m.scope = p_former AND NOT EXISTS (
        SELECT FROM agirails_paywall.meta ours WHERE ours.scope = p_scope AND ours.name = m.name
    );
    WITH moved AS (
        DELETE FROM agirails_paywall.counter c WHERE c.scope = p_former RETURNING c.name, c.part, c.value
    )
    INSERT INTO agirails_paywall.counter AS c (scope, name, part, value)
    SELECT p_scope, moved.name, moved.part, moved.value FROM moved
    ON CONFLICT (scope, name, part) DO UPDATE SET value = c.value + excluded.value;
END
$$;

CREATE FUNCTION agirails_paywall.keep_tree(
    p_scope text, p_id bytea, p_levels integer[], p_numbers bigint[], p_hashes bytea[]
) RETURNS void LANGUAGE sql
SET search_path = pg_catalog, pg_temp AS $$
    INSERT INTO agirails_paywall.tree (scope, payment, level, number, hashes)
    SELECT p_scope, p_id, rows.level, rows.number, rows.hashes
    FROM unnest(p_levels, p_numbers, p_hashes) AS rows (level, number, hashes)
    ON CONFLICT DO NOTHING
$$;
