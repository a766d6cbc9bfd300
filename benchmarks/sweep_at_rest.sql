-- Rows of all applications of which none is due for any policy. u(n) is the n-th uuid.
CREATE FUNCTION u(n bigint) RETURNS uuid LANGUAGE sql IMMUTABLE AS $$ SELECT lpad(to_hex(n), 32, '0')::uuid $$;
TRUNCATE echoroom.typing_indicators;
INSERT INTO echoroom.typing_indicators (session_id, user_id, username, expires_at)
    SELECT u(1), u(n), 'Ada', now() + interval '1 hour' FROM generate_series(1, 2000) AS n;
INSERT INTO echoroom.chat_sessions (id, category) SELECT u(n), 'Calm' FROM generate_series(2, 1000) AS n;
INSERT INTO echoroom.session_participants (session_id, user_id, is_active)
    SELECT u(1 + n % 1000), u(n), n <= 3000 FROM generate_series(1, 100000) AS n;
INSERT INTO echoroom.voice_status (session_id, user_id, is_speaking)
    SELECT u(1 + n % 1000), u(n), n % 5 = 0 FROM generate_series(1, 3000) AS n;

INSERT INTO openchat."user" (id, name, email, email_verified, is_online, status, last_seen_at, updated_at)
    SELECT u(n), 'Ada', n::text, true, n <= 2000, CASE WHEN n <= 2000 THEN 'online' ELSE 'offline' END,
           now() - CASE WHEN n <= 2000 THEN interval '0' ELSE interval '9 days' END, now() - interval '9 days'
      FROM generate_series(1, 100000) AS n;
INSERT INTO openchat.session (user_id, token, expires_at, updated_at)
    SELECT u(n), n::text, now() + interval '1 day', now() FROM generate_series(1, 100000) AS n;
INSERT INTO openchat.verification (identifier, value, expires_at)
    SELECT n::text, 'x', now() + interval '1 day' FROM generate_series(1, 50000) AS n;
INSERT INTO openchat.conversation (id, created_by) SELECT u(n), u(n) FROM generate_series(1, 20000) AS n;
INSERT INTO openchat.conversation_participant (conversation_id, user_id)
    SELECT u(1 + n % 20000), u(1 + n % 99991) FROM generate_series(1, 200000) AS n ON CONFLICT DO NOTHING;
INSERT INTO openchat.message (id, conversation_id, sender_id, content)
    SELECT u(n), u(1 + n % 20000), u(1 + n % 99991), 'hello' FROM generate_series(1, 200000) AS n;
INSERT INTO openchat.attachment (message_id, uploaded_by, filename, original_filename, mime_type, file_size,
                                 storage_key)
    SELECT u(n), u(1), 'x', 'x', 'text/plain', 1, n::text FROM generate_series(1, 100000) AS n;

INSERT INTO user_schema.users (id, username, email, password_hash, role)
    SELECT u(n), n::text, n::text, 'x', 'male' FROM generate_series(1, 100000) AS n;
INSERT INTO user_schema.user_sessions (user_id, status, expires_at)
    SELECT u(n), CASE WHEN n <= 2000 THEN 'online' ELSE 'offline' END, now() + interval '1 day'
      FROM generate_series(1, 100000) AS n;
INSERT INTO interaction_schema.interaction_logs (id, user1_id, user2_id, room_id, started_at, ended_at)
    SELECT u(n), u(n), u(n % 1000 + 1), 'x', now() - n * interval '1 minute', now()
      FROM generate_series(1, 100000) AS n;
INSERT INTO interaction_schema.connections (id, user1_id, user2_id, interaction_log_id, female_user_id)
    SELECT u(n), u(n), u(n + 1), u(n), u(n) FROM generate_series(1, 50000) AS n;
INSERT INTO communication_schema.chat_rooms (connection_id, room_name)
    SELECT u(n), 'x' FROM generate_series(1, 50000) AS n;
INSERT INTO interaction_schema.video_requests (connection_id, requester_user_id, approver_user_id, status)
    SELECT u(n), u(n), u(n), CASE WHEN n <= 1000 THEN 'pending' ELSE 'rejected' END
      FROM generate_series(1, 50000) AS n;

INSERT INTO pern.users (id, username, email, display_name, password_hash, status, last_seen_at, created_at,
                        updated_at)
    SELECT u(n), n::text, n::text, 'Ada', 'x', (CASE WHEN n <= 2000 THEN 'online' ELSE 'offline' END)
           ::pern.enum_users_status, now(), now(), now() FROM generate_series(1, 100000) AS n;
INSERT INTO pern.auth_sessions (id, user_id, refresh_token_hash, device_info, ip_address, expires_at, created_at,
                                updated_at)
    SELECT u(n), u(n), 'x', 'x', '127.0.0.1', now() + interval '1 day', now(), now()
      FROM generate_series(1, 100000) AS n;
INSERT INTO pern.user_public_keys (id, user_id, public_key, is_active, expires_at, created_at, updated_at)
    SELECT u(n), u(n), 'x', n % 2 = 0, now() + CASE WHEN n % 2 = 0 THEN 1 ELSE -9 END * interval '1 day', now(),
           now() FROM generate_series(1, 100000) AS n;

INSERT INTO audiorooms.audio_rooms (id, code, password_hash)
    SELECT u(n), upper(lpad(to_hex(n), 6, '0')), 'x' FROM generate_series(1, 2000) AS n;
INSERT INTO audiorooms.room_participants (room_id, client_id, joined_at, left_at)
    SELECT u(1 + n % 2000), n::text, now() - interval '1 hour', CASE WHEN n > 3000 THEN now() END
      FROM generate_series(1, 200000) AS n;

INSERT INTO roomkeeper.job_runs (job, started_at, finished_at, rows, outcome)
    SELECT 'x', now(), now(), 0, 'done' FROM generate_series(1, 100000) AS n;
