// An API service with `pg`: its own row and both functions in one transaction. Says what came of each call.
import pg from "pg";

const client = new pg.Client({ connectionString: given.url });
await client.connect();
const said = {};
try {
  await client.query("BEGIN");
  await client.query(given.insert);
  for (const [name, call, values] of given.calls) {
    const { rows } = await client.query(call, values);
    said[name] = rows[0][name];
  }
  await client.query(given.end);
} catch (error) {
  said.error = { code: error.code, message: error.message, hint: error.hint };
  await client.query("ROLLBACK");
}
await client.end();
console.log(JSON.stringify(said));
