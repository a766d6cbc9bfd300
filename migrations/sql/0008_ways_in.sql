-- Events of any time: what lies ahead is judged where they are merged, event by event, and fails no call.

-- Whether the text is a moment in ISO 8601 with an offset from UTC, of a date that exists, of the years 1 to 9999.
CREATE OR REPLACE FUNCTION roomkeeper.is_moment(value text) RETURNS boolean
LANGUAGE sql STABLE
RETURN left(value, 4) <> '0000'
    AND value ~ ('^(?:[0-9]{4}-(?:(?:0[13578]|1[02])-(?:0[1-9]|[12][0-9]|3[01])'
        || '|(?:0[469]|11)-(?:0[1-9]|[12][0-9]|30)|02-(?:0[1-9]|1[0-9]|2[0-8]))'
        || '|(?:[0-9]{2}(?:0[48]|[2468][048]|[13579][26])|(?:[02468][048]|[13579][26])00)-02-29)'
        || '[T ](?:[01][0-9]|2[0-3]):[0-5][0-9](?::[0-5][0-9](?:[.][0-9]{1,9})?)?'
        || '(?:Z|[+-](?:0[0-9]|1[0-4]):[0-5][0-9])$');

-- As it was; but any moment is taken, and the row says when it was called. Who may call it stays as it is.
CREATE OR REPLACE FUNCTION roomkeeper.record_status(app text, events jsonb) RETURNS bigint
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
            place || '.at: not a moment, but ' || roomkeeper.shape(event -> 'at'),
            'A date that exists, the time, and its offset from UTC: 2026-01-31T23:59:59.123Z, '
                '2026-01-31T23:59:59+01:00.'
        );
    END IF;

    -- The time of the call, which a long transaction began well before: no event is ahead for its sake.
    INSERT INTO roomkeeper.status_inbox (app, events, received_at)
    VALUES (record_status.app, record_status.events, clock_timestamp())
    RETURNING status_inbox.id INTO made;
    RETURN made;
END
$$;
