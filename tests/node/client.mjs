// An agent's process on the TypeScript SDK: lists what an MCP server offers, uses what it is told to, and prints what came of each
// as JSON.
//
// usage: client.mjs URL NAME...   (a tool, `prompt:NAME`, or a URI; through.mjs leads it to its sidecar)

import { Client } from "@modelcontextprotocol/sdk/client/index.js";
import { StreamableHTTPClientTransport } from "@modelcontextprotocol/sdk/client/streamableHttp.js";

const [url, ...names] = process.argv.slice(2);
const outcome = {};
async function take(name, step) {
  try {
    outcome[name] = await step();
  } catch (error) {
    outcome[name] = { error: error.message };
  }
}

const client = new Client({ name: "agent", version: "1.0.0" }, { capabilities: {} });
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
    const { content, isError = false } = await client.callTool({ name, arguments: {} });
    return { text: content[0].text, isError };
  });
}
await client.close();
console.log(JSON.stringify(outcome));
