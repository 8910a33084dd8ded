// An agent's process on the TypeScript SDK: lists what an MCP server offers, uses what it is told to, and prints what came of each
// as JSON.
//
// usage: client.mjs URL NAME...   (a tool, `task:TOOL` as a task, `prompt:NAME`, or a URI; through.mjs leads it to its sidecar)

import { Client } from "@modelcontextprotocol/sdk/client/index.js";
import { StreamableHTTPClientTransport } from "@modelcontextprotocol/sdk/client/streamableHttp.js";
import { CallToolResultSchema, ElicitRequestSchema } from "@modelcontextprotocol/sdk/types.js";

const RELATED = "io.modelcontextprotocol/related-task";

const [url, ...names] = process.argv.slice(2);
const outcome = {};
async function take(name, step) {
  try {
    outcome[name] = await step();
  } catch (error) {
    outcome[name] = { error: error.message };
  }
}

const asTask = names.filter((name) => name.startsWith("task:"));
const capabilities = asTask.length ? { elicitation: { form: {} } } : {};
const client = new Client({ name: "agent", version: "1.0.0" }, { capabilities });
const related = [];
if (asTask.length)
  client.setRequestHandler(ElicitRequestSchema, ({ params }) => {
    const task = params._meta?.[RELATED];
    related.push(task?.taskId);
    // A client says of its answer too what task it is part of (2025-11-25).
    return { action: "accept", content: { username: "ada" }, _meta: { [RELATED]: task } };
  });
await client.connect(new StreamableHTTPClientTransport(new URL(url)));
await take("tools", async () => (await client.listTools()).tools.map(({ name }) => name).sort());
await take("prompts", async () => (await client.listPrompts()).prompts.map(({ name }) => name).sort());
await take("resources", async () => (await client.listResources()).resources.map(({ uri }) => uri).sort());
await take("templates", async () => (await client.listResourceTemplates()).resourceTemplates.map(({ uriTemplate }) => uriTemplate));
for (const name of names) {
  await take(name, async () => {
    if (name.includes("://")) return { text: (await client.readResource({ uri: name })).contents[0].text };
    if (name.startsWith("prompt:")) {
      const { messages } = await client.getPrompt({ name: name.slice("prompt:".length), arguments: {} });
      return { text: messages[0].content.text };
    }
    if (name.startsWith("task:")) {
      const { tasks } = client.experimental;
      const call = { name: name.slice("task:".length), arguments: {} };
      const told = { statuses: [] };
      for await (const message of tasks.callToolStream(call, CallToolResultSchema, { task: { ttl: 60000 } })) {
        if (message.type === "taskCreated") told.id = message.task.taskId;
        if (message.type === "taskStatus") told.statuses.push(message.task.status);
        if (message.type === "result") told.text = message.result.content[0].text;
        if (message.type === "error") told.error = message.error.message;
      }
      const again = await tasks.getTaskResult(told.id, CallToolResultSchema);
      related.push(again._meta?.[RELATED]?.taskId);
      return { ...told, related, last: (await tasks.getTask(told.id)).status };
    }
    const { content, isError = false } = await client.callTool({ name, arguments: {} });
    return { text: content[0].text, isError };
  });
}
await client.close();
console.log(JSON.stringify(outcome));
