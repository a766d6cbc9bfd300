-- What may be handed over in SQL, and the functions that take it, in the caller's own transaction.
-- Callers need the right to execute two of them, and no right on any table. Nothing here depends on the
-- caller's search path. PostgreSQL 14 must do.

INSERT INTO roomkeeper.sql_tasks (task, fields, apps) VALUES
    ('attachments.process', '{"app": "app", "id": "uuid"}', '{openchat,pern}'),
    ('delivery.record', '{"app": "app", "events": "events"}', '{connect,openchat,pern}');

-- Refuse what the caller gave. The message names the place and what is there instead, never its content: that
-- would reach logs.
CREATE FUNCTION roomkeeper.refuse(message text, hint text) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value', MESSAGE = message, HINT = hint;
END
$$;

-- What a value looks like, without a word of it.
CREATE FUNCTION roomkeeper.shape(value jsonb) RETURNS text
LANGUAGE sql IMMUTABLE
RETURN CASE jsonb_typeof(value)
    WHEN 'string' THEN 'a string of ' || char_length(value #>> '{}') || ' characters'
    WHEN 'array' THEN 'an array of ' || jsonb_array_length(value) || ' elements'
    WHEN 'object' THEN 'an object'
    WHEN 'null' THEN 'null'
    ELSE 'a ' || jsonb_typeof(value)
END;

-- Whether the text is a UUID as it is usually written. One regular expression for all would take three times
-- as long: it costs for each place that it distinguishes.
CREATE FUNCTION roomkeeper.is_uuid(value text) RETURNS boolean
LANGUAGE sql IMMUTABLE
RETURN value LIKE '________-____-____-____-____________'
    AND value !~ '[^0-9a-fA-F-]'
    AND length(replace(value, '-', '')) = 32;

-- Whether the text is a moment in ISO 8601 with an offset from UTC, of a date that exists, from 2000 to 2099.
-- Only around the ends of that time does the offset matter, and only there is it computed; to the minute, for
-- PostgreSQL rounds what is finer than a microsecond.
CREATE FUNCTION roomkeeper.is_moment(value text) RETURNS boolean
LANGUAGE sql STABLE
RETURN CASE
    WHEN value !~ ('^(?:(?:1999|20[0-9]{2}|2100)-(?:(?:0[13578]|1[02])-(?:0[1-9]|[12][0-9]|3[01])'
        || '|(?:0[469]|11)-(?:0[1-9]|[12][0-9]|30)|02-(?:0[1-9]|1[0-9]|2[0-8]))'
        || '|20(?:[02468][048]|[13579][26])-02-29)'
        || '[T ](?:[01][0-9]|2[0-3]):[0-5][0-9](?::[0-5][0-9](?:[.][0-9]{1,9})?)?'
        || '(?:Z|[+-](?:0[0-9]|1[0-4]):[0-5][0-9])$')
        THEN false
    WHEN left(value, 4) NOT IN ('1999', '2000', '2099', '2100') THEN true
    ELSE (left(value, 16) || CASE right(value, 1) WHEN 'Z' THEN 'Z' ELSE right(value, 6) END)::timestamptz
        BETWEEN '2000-01-01 00:00Z'::timestamptz AND '2099-12-31 23:59Z'::timestamptz
END;

CREATE FUNCTION roomkeeper.enqueue(task text, payload jsonb) RETURNS uuid
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    known roomkeeper.sql_tasks;
    -- The tasks that this takes, for the hint.
    tasks text;
    fields text;
    field text;
    kind text;
    made uuid;
BEGIN
    SELECT * INTO known FROM roomkeeper.sql_tasks AS one WHERE one.task = enqueue.task;
    IF NOT FOUND THEN
        SELECT 'The tasks are: ' || string_agg(one.task, ', ' ORDER BY one.task) || '.' INTO tasks
          FROM roomkeeper.sql_tasks AS one WHERE NOT one.fields ? 'events';
        IF enqueue.task IS NULL THEN
            PERFORM roomkeeper.refuse('task: must not be NULL', tasks);
        END IF;
        PERFORM roomkeeper.refuse('task: none is called ' || quote_literal(left(enqueue.task, 100)), tasks);
    END IF;
    IF known.fields ? 'events' THEN
        PERFORM roomkeeper.refuse(
            'task: ' || known.task || ' is not enqueued', 'Call roomkeeper.record_status(app, events).'
        );
    END IF;

    SELECT 'The fields of ' || known.task || ' are: ' || string_agg(key, ', ' ORDER BY key COLLATE "C") || '.'
      INTO fields FROM jsonb_object_keys(known.fields) AS key;
    IF enqueue.payload IS NULL THEN
        PERFORM roomkeeper.refuse('payload: must not be NULL', fields);
    ELSIF jsonb_typeof(enqueue.payload) <> 'object' THEN
        PERFORM roomkeeper.refuse('payload: not an object, but ' || roomkeeper.shape(enqueue.payload), fields);
    END IF;
    FOR field IN SELECT key FROM jsonb_object_keys(enqueue.payload) AS key
                  WHERE NOT known.fields ? key ORDER BY key COLLATE "C" LOOP
        PERFORM roomkeeper.refuse('payload.' || left(field, 100) || ': no such field', fields);
    END LOOP;
    FOR field, kind IN SELECT one.key, one.value FROM jsonb_each_text(known.fields) AS one
                        ORDER BY one.key COLLATE "C" LOOP
        IF NOT enqueue.payload ? field THEN
            PERFORM roomkeeper.refuse('payload.' || field || ': missing', fields);
        ELSIF kind = 'app' AND NOT coalesce(enqueue.payload ->> field = ANY (known.apps), false) THEN
            PERFORM roomkeeper.refuse(
                'payload.' || field || ': not an application of ' || known.task || ', but '
                    || roomkeeper.shape(enqueue.payload -> field),
                'Allowed: ' || array_to_string(known.apps, ', ') || '.'
            );
        ELSIF kind = 'uuid' AND NOT coalesce(roomkeeper.is_uuid(enqueue.payload ->> field), false) THEN
            PERFORM roomkeeper.refuse(
                'payload.' || field || ': not a UUID, but ' || roomkeeper.shape(enqueue.payload -> field),
                'A UUID looks like 123e4567-e89b-42d3-a456-426614174000.'
            );
        END IF;
    END LOOP;

    INSERT INTO roomkeeper.outbox (task, payload) VALUES (enqueue.task, enqueue.payload)
    RETURNING outbox.task_id INTO made;
    RETURN made;
END
$$;

CREATE FUNCTION roomkeeper.record_status(app text, events jsonb) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    wanted CONSTANT text := 'One to 1000 objects {"message_id": a UUID, "user_id": a UUID, "status": "sent", '
        '"delivered", "read" or "failed", "at": "2026-01-31T23:59:59.123Z"}.';
    fields CONSTANT text[] := '{message_id,user_id,status,at}';
    apps text[];
    place text;
    event jsonb;
    field text;
    made bigint;
BEGIN
    SELECT one.apps INTO apps FROM roomkeeper.sql_tasks AS one WHERE one.task = 'delivery.record';
    IF record_status.app IS NULL THEN
        PERFORM roomkeeper.refuse('app: must not be NULL', 'Allowed: ' || array_to_string(apps, ', ') || '.');
    ELSIF record_status.app <> ALL (apps) THEN
        PERFORM roomkeeper.refuse(
            'app: not an application with message statuses, but '
                || roomkeeper.shape(to_jsonb(record_status.app)),
            'Allowed: ' || array_to_string(apps, ', ') || '.'
        );
    END IF;
    IF record_status.events IS NULL THEN
        PERFORM roomkeeper.refuse('events: must not be NULL', wanted);
    ELSIF jsonb_typeof(record_status.events) <> 'array' THEN
        PERFORM roomkeeper.refuse('events: not an array, but ' || roomkeeper.shape(record_status.events), wanted);
    ELSIF jsonb_array_length(record_status.events) NOT BETWEEN 1 AND 1000 THEN
        PERFORM roomkeeper.refuse('events: ' || roomkeeper.shape(record_status.events), wanted);
    END IF;

    -- All events at once; what is wrong with one is found out afterwards. A value that is no string passes none
    -- of these: its text begins otherwise.
    SELECT 'events[' || one.number - 1 || ']', one.event INTO place, event
      FROM jsonb_array_elements(record_status.events) WITH ORDINALITY AS one (event, number)
     WHERE CASE jsonb_typeof(one.event)
               WHEN 'object' THEN one.event - fields = '{}'
                   AND roomkeeper.is_uuid(one.event ->> 'message_id')
                   AND roomkeeper.is_uuid(one.event ->> 'user_id')
                   AND one.event ->> 'status' IN ('sent', 'delivered', 'read', 'failed')
                   AND roomkeeper.is_moment(one.event ->> 'at')
           END IS NOT TRUE
     ORDER BY one.number
     LIMIT 1;
    IF FOUND THEN
        IF jsonb_typeof(event) <> 'object' THEN
            PERFORM roomkeeper.refuse(place || ': not an object, but ' || roomkeeper.shape(event), wanted);
        END IF;
        FOR field IN SELECT key FROM jsonb_object_keys(event - fields) AS key ORDER BY key COLLATE "C" LOOP
            PERFORM roomkeeper.refuse(
                place || '.' || left(field, 100) || ': no such field',
                'The fields are: ' || array_to_string(fields, ', ') || '.'
            );
        END LOOP;
        FOREACH field IN ARRAY fields LOOP
            IF NOT event ? field THEN
                PERFORM roomkeeper.refuse(
                    place || '.' || field || ': missing',
                    'The fields are: ' || array_to_string(fields, ', ') || '.'
                );
            ELSIF field IN ('message_id', 'user_id')
                AND NOT coalesce(roomkeeper.is_uuid(event ->> field), false) THEN
                PERFORM roomkeeper.refuse(
                    place || '.' || field || ': not a UUID, but ' || roomkeeper.shape(event -> field),
                    'A UUID looks like 123e4567-e89b-42d3-a456-426614174000.'
                );
            ELSIF field = 'status'
                AND NOT coalesce(event ->> field IN ('sent', 'delivered', 'read', 'failed'), false) THEN
                PERFORM roomkeeper.refuse(
                    place || '.status: not a status, but ' || roomkeeper.shape(event -> field),
                    'Allowed: sent, delivered, read, failed.'
                );
            END IF;
        END LOOP;
        PERFORM roomkeeper.refuse(
            place || '.at: not a moment from 2000 to 2099, but ' || roomkeeper.shape(event -> 'at'),
            'A date that exists, the time, and its offset from UTC: 2026-01-31T23:59:59.123Z, '
                '2026-01-31T23:59:59+01:00.'
        );
    END IF;

    INSERT INTO roomkeeper.status_inbox (app, events) VALUES (record_status.app, record_status.events)
    RETURNING status_inbox.id INTO made;
    RETURN made;
END
$$;

-- For a trigger after each insert into a table of attachments; its arguments are the application's name and the
-- name of the column with the id. Whatever goes wrong, the application's insert goes on: the row is found anyway.
CREATE FUNCTION roomkeeper.enqueue_attachment() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '1s'
AS $$
DECLARE
    its_id uuid;
BEGIN
    -- Of the row nothing but a uuid is touched. To turn another type into JSON, or a uuid, would be to run its
    -- owner's casts with our rights.
    PERFORM FROM pg_catalog.pg_attribute AS one
      WHERE one.attrelid = TG_RELID AND one.attname = TG_ARGV[1] AND one.atttypid = 'pg_catalog.uuid'::regtype;
    IF NOT FOUND THEN
        PERFORM roomkeeper.refuse('no column of type uuid is called ' || quote_literal(TG_ARGV[1]), NULL);
    END IF;
    EXECUTE format('SELECT ($1).%I', TG_ARGV[1]) INTO its_id USING NEW;
    PERFORM roomkeeper.enqueue('attachments.process', jsonb_build_object('app', TG_ARGV[0], 'id', its_id));
    RETURN NULL;
EXCEPTION WHEN OTHERS THEN
    RAISE WARNING USING
        ERRCODE = SQLSTATE,
        MESSAGE = 'roomkeeper: an attachment was not enqueued: ' || SQLERRM,
        HINT = 'It is found by attachments.recover.';
    RETURN NULL;
END
$$;

REVOKE ALL ON FUNCTION
    roomkeeper.refuse(text, text),
    roomkeeper.shape(jsonb),
    roomkeeper.is_uuid(text),
    roomkeeper.is_moment(text),
    roomkeeper.enqueue(text, jsonb),
    roomkeeper.record_status(text, jsonb),
    roomkeeper.enqueue_attachment()
FROM PUBLIC;
