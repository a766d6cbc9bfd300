-- One more task that may be handed over in SQL, with a field that is a room: its id, or its code.

INSERT INTO roomkeeper.sql_tasks (task, fields, apps) VALUES
    ('analytics.room', '{"app": "app", "room": "room"}', '{audiorooms}');

-- Whether the value is a room's id or code. A number's text would pass for a code.
CREATE FUNCTION roomkeeper.is_room(value jsonb) RETURNS boolean
LANGUAGE sql IMMUTABLE
RETURN jsonb_typeof(value) = 'string'
    AND (value #>> '{}' ~ '^[A-Z0-9]{6}$' OR roomkeeper.is_uuid(value #>> '{}'));

-- As it was, and rooms. Who may call it stays as it is.
CREATE OR REPLACE FUNCTION roomkeeper.enqueue(task text, payload jsonb) RETURNS uuid
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
        ELSIF kind = 'room' AND NOT roomkeeper.is_room(enqueue.payload -> field) THEN
            PERFORM roomkeeper.refuse(
                'payload.' || field || ': neither a UUID nor a code, but '
                    || roomkeeper.shape(enqueue.payload -> field),
                'A code is six capital letters and digits, like ABC123.'
            );
        END IF;
    END LOOP;

    INSERT INTO roomkeeper.outbox (task, payload) VALUES (enqueue.task, enqueue.payload)
    RETURNING outbox.task_id INTO made;
    RETURN made;
END
$$;

REVOKE ALL ON FUNCTION roomkeeper.is_room(jsonb) FROM PUBLIC;
