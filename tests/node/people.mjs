// People in the rooms of an API service, which is above. Says who is there, and then who hears what; and what is
// in the database at that moment.
import pg from "pg";
import { io as connect } from "socket.io-client";

const database = new pg.Pool({ connectionString: given.database, max: 1 });
const look = async () => (await database.query(given.look)).rows.map((row) => row.seen);
await look();
// It answers when it has subscribed.
await sub.ping();
for (const [name, session_id] of Object.entries(given.people)) {
  const client = connect(`http://127.0.0.1:${given.port}`, { transports: ["websocket"] });
  client.onAny(async (...event) => console.log(JSON.stringify([name, ...event, await look()])));
  client.emit("joinRoom", { session_id });
}
const rooms = io.of("/").adapter.rooms;
while (!Object.values(given.people).every((room) => rooms.has(room))) await new Promise((wake) => setTimeout(wake, 5));
console.log(JSON.stringify("all there"));
