// An MCP server that offers one of everything, on the TypeScript SDK: what the conformance suite asks servers for.
//
// usage: everything.mjs SOCKET LOGFILE   (it listens on the socket and, for who goes around the sidecar, on a port of
// loopback, which it writes to SOCKET.port)

import { randomUUID } from "node:crypto";
import { appendFileSync, writeFileSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import { InMemoryTaskMessageQueue, InMemoryTaskStore } from "@modelcontextprotocol/sdk/experimental/tasks/stores/in-memory.js";
import { InMemoryEventStore } from "@modelcontextprotocol/sdk/examples/shared/inMemoryEventStore.js";
import { createMcpExpressApp } from "@modelcontextprotocol/sdk/server/express.js";
import { Server } from "@modelcontextprotocol/sdk/server/index.js";
import { StreamableHTTPServerTransport } from "@modelcontextprotocol/sdk/server/streamableHttp.js";
import * as mcp from "@modelcontextprotocol/sdk/types.js";

const DOT = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8z8DwHwAFBQIAX8jx0gAAAABJRU5ErkJggg==";
const SILENCE = "UklGRiYAAABXQVZFZm10IBAAAAABAAEAQB8AAAB9AAACABAAZGF0YQIAAAA=";

const text = (text) => ({ type: "text", text });
const image = { type: "image", data: DOT, mimeType: "image/png" };
const audio = { type: "audio", data: SILENCE, mimeType: "audio/wav" };
const embedded = (uri, mimeType, text) => ({ type: "resource", resource: { uri, mimeType, text } });
const user = (content) => ({ role: "user", content });

const strings = (names, more = {}) => ({
  type: "object",
  properties: Object.fromEntries(names.map((name) => [name, { type: "string" }])),
  required: names,
  ...more,
});
const choices = (values) => values.map((value) => ({ const: value, title: `Choice ${value}` }));

const DEFAULTS = {
  type: "object",
  properties: {
    name: { type: "string", default: "John Doe" },
    age: { type: "integer", default: 30 },
    score: { type: "number", default: 95.5 },
    status: { type: "string", enum: ["active", "inactive", "pending"], default: "active" },
    verified: { type: "boolean", default: true },
  },
};
const ENUMS = {
  type: "object",
  properties: {
    untitledSingle: { type: "string", enum: ["option1", "option2", "option3"] },
    titledSingle: { type: "string", oneOf: choices(["value1", "value2", "value3"]) },
    legacyEnum: { type: "string", enum: ["opt1", "opt2"], enumNames: ["Option one", "Option two"] },
    untitledMulti: { type: "array", items: { type: "string", enum: ["option1", "option2", "option3"] } },
    titledMulti: { type: "array", items: { anyOf: choices(["value1", "value2", "value3"]) } },
  },
};

// Asks the user by way of the client, and tells what it said.
const asked = (schema) => async ({ message = "Who are you?" }, { ask }) => {
  const answer = await ask({ method: "elicitation/create", params: { message, requestedSchema: schema } }, mcp.ElicitResultSchema);
  return [text(`action=${answer.action}, content=${JSON.stringify(answer.content)}`)];
};

// Each tool: its schema, what it does, and whether it may do so as a task.
const TOOLS = {
  test_simple_text: [strings([]), () => [text("This is a simple text response for testing.")]],
  test_image_content: [strings([]), () => [image]],
  test_audio_content: [strings([]), () => [audio]],
  test_embedded_resource: [strings([]), () => [embedded("test://embedded-resource", "text/plain", "An embedded resource.")]],
  test_multiple_content_types: [
    strings([]),
    () => [text("Several:"), image, embedded("test://mixed-content-resource", "application/json", '{"test":"data","value":123}')],
  ],
  test_tool_with_logging: [
    strings([]),
    async (_, { tell }) => {
      for (const data of ["Tool execution started", "Tool processing data", "Tool execution completed"]) {
        await tell({ method: "notifications/message", params: { level: "info", data } });
        await sleep(50);
      }
      return [text("logged")];
    },
  ],
  test_tool_with_progress: [
    strings([]),
    async (_, { tell, progressToken }) => {
      for (const progress of [0, 50, 100]) {
        if (progressToken !== undefined)
          await tell({ method: "notifications/progress", params: { progressToken, progress, total: 100 } });
        await sleep(50);
      }
      return [text("done")];
    },
  ],
  test_error_handling: [
    strings([]),
    () => {
      throw new Error("This tool intentionally returns an error for testing");
    },
  ],
  test_sampling: [
    strings(["prompt"]),
    async ({ prompt }, { ask }) => {
      const params = { messages: [user(text(prompt))], maxTokens: 100 };
      const answer = await ask({ method: "sampling/createMessage", params }, mcp.CreateMessageResultSchema);
      return [text(`LLM response: ${answer.content.text}`)];
    },
  ],
  test_elicitation: [strings(["message"]), asked(strings(["username", "email"]))],
  test_task: [strings([]), asked(strings(["username"])), "optional"],
  test_elicitation_sep1034_defaults: [strings([]), asked(DEFAULTS)],
  test_elicitation_sep1330_enums: [strings([]), asked(ENUMS)],
  // Ends the stream under its own call; whoever comes back finds the answer.
  test_reconnection: [
    strings([]),
    async (_, { hangUp }) => {
      hangUp?.();
      await sleep(200);
      return [text("Reconnection test completed")];
    },
  ],
  json_schema_2020_12_tool: [
    {
      $schema: "https://json-schema.org/draft/2020-12/schema",
      $defs: { address: strings(["street", "city"], { required: [] }) },
      type: "object",
      properties: { name: { type: "string" }, address: { $ref: "#/$defs/address" } },
      additionalProperties: false,
    },
    () => [text("kept")],
  ],
};

// Each prompt: its arguments, and what it says.
const PROMPTS = {
  test_simple_prompt: [[], () => [user(text("This is a simple prompt for testing."))]],
  test_prompt_with_arguments: [["arg1", "arg2"], ({ arg1, arg2 }) => [user(text(`arg1='${arg1}', arg2='${arg2}'`))]],
  test_prompt_with_embedded_resource: [
    ["resourceUri"],
    ({ resourceUri }) => [user(embedded(resourceUri, "text/plain", "Embedded.")), user(text("Please process it."))],
  ],
  test_prompt_with_image: [[], () => [user(image), user(text("Please analyse the image above."))]],
};

const RESOURCES = {
  "test://static-text": { mimeType: "text/plain", text: "This is the content of the static text resource." },
  "test://static-binary": { mimeType: "image/png", blob: DOT },
  "test://watched-resource": { mimeType: "text/plain", text: "Watched." },
};
const TEMPLATE = { uriTemplate: "test://template/{id}/data", name: "data", description: "Data by id", mimeType: "application/json" };

function read(uri) {
  const [, id] = /^test:\/\/template\/([^/]+)\/data$/.exec(uri) ?? [];
  if (id !== undefined) return { mimeType: "application/json", text: JSON.stringify({ id, data: `Data for ID: ${id}` }) };
  if (!(uri in RESOURCES)) throw new mcp.McpError(mcp.ErrorCode.InvalidParams, `no resource ${uri}`);
  return RESOURCES[uri];
}

function everything() {
  const capabilities = {
    tools: {},
    prompts: {},
    resources: { subscribe: true },
    logging: {},
    completions: {},
    tasks: { list: {}, cancel: {}, requests: { tools: { call: {} } } },
  };
  const tasks = { taskStore: new InMemoryTaskStore(), taskMessageQueue: new InMemoryTaskMessageQueue() };
  const server = new Server({ name: "everything", version: "1.0.0" }, { capabilities, ...tasks });
  const on = (schema, answer) => server.setRequestHandler(schema, answer);
  on(mcp.ListToolsRequestSchema, () => ({
    tools: Object.entries(TOOLS).map(([name, [inputSchema, , taskSupport = "forbidden"]]) => ({
      name,
      description: `The tool ${name}`,
      inputSchema,
      execution: { taskSupport },
    })),
  }));
  on(mcp.CallToolRequestSchema, async ({ params }, extra) => {
    if (!(params.name in TOOLS)) throw new mcp.McpError(mcp.ErrorCode.InvalidParams, `no tool ${params.name}`);
    const caller = {
      ask: extra.sendRequest,
      tell: extra.sendNotification,
      hangUp: extra.closeSSEStream,
      progressToken: params._meta?.progressToken,
    };
    const result = async () => {
      try {
        return { content: await TOOLS[params.name][1](params.arguments ?? {}, caller) };
      } catch (error) {
        return { isError: true, content: [text(error.message)] };
      }
    };
    if (!params.task) return await result();
    const task = await extra.taskStore.createTask({ ttl: params.task.ttl, pollInterval: 50 });
    caller.ask = (request, schema) => extra.sendRequest(request, schema, { relatedTask: { taskId: task.taskId } });
    result().then((ended) => extra.taskStore.storeTaskResult(task.taskId, ended.isError ? "failed" : "completed", ended));
    return { task };
  });
  on(mcp.ListPromptsRequestSchema, () => ({
    prompts: Object.entries(PROMPTS).map(([name, [names]]) => {
      const described = names.map((name) => ({ name, description: `The argument ${name}`, required: true }));
      return { name, description: `The prompt ${name}`, arguments: described };
    }),
  }));
  on(mcp.GetPromptRequestSchema, ({ params }) => {
    if (!(params.name in PROMPTS)) throw new mcp.McpError(mcp.ErrorCode.InvalidParams, `no prompt ${params.name}`);
    return { messages: PROMPTS[params.name][1](params.arguments ?? {}) };
  });
  on(mcp.ListResourcesRequestSchema, () => ({
    resources: Object.entries(RESOURCES).map(([uri, { mimeType }]) => ({ uri, name: uri, description: `The resource ${uri}`, mimeType })),
  }));
  on(mcp.ListResourceTemplatesRequestSchema, () => ({ resourceTemplates: [TEMPLATE] }));
  on(mcp.ReadResourceRequestSchema, ({ params }) => ({ contents: [{ uri: params.uri, ...read(params.uri) }] }));
  on(mcp.SubscribeRequestSchema, () => ({}));
  on(mcp.UnsubscribeRequestSchema, () => ({}));
  on(mcp.SetLevelRequestSchema, () => ({}));
  on(mcp.CompleteRequestSchema, () => ({ completion: { values: ["paris", "park"], total: 2, hasMore: false } }));
  return server;
}

const [socket, log] = process.argv.slice(2);
const sessions = new Map();
const app = createMcpExpressApp();
let number = 0;
app.use((request, _, next) => {
  const { method, originalUrl: path, rawHeaders, body } = request;
  const headers = rawHeaders.flatMap((name, at) => (at % 2 ? [] : [[name.toLowerCase(), rawHeaders[at + 1]]]));
  const line = { number: number++, method, path, headers, body: body ? JSON.stringify(body) : "", complete: true };
  appendFileSync(log, `${JSON.stringify(line)}\n`);
  next();
});
app.get("/healthz", (_, response) => response.end());
app.all("/mcp", async (request, response) => {
  let transport = sessions.get(request.headers["mcp-session-id"]);
  if (!transport && mcp.isInitializeRequest(request.body)) {
    transport = new StreamableHTTPServerTransport({
      sessionIdGenerator: randomUUID,
      eventStore: new InMemoryEventStore(),
      retryInterval: 100,
      onsessioninitialized: (id) => sessions.set(id, transport),
    });
    transport.onclose = () => sessions.delete(transport.sessionId);
    await everything().connect(transport);
  }
  if (!transport) return response.status(404).json({ jsonrpc: "2.0", error: { code: -32001, message: "no such session" }, id: null });
  await transport.handleRequest(request, response, request.body);
});
app.listen(socket);
const around = app.listen(0, "127.0.0.1", () => writeFileSync(`${socket}.port`, String(around.address().port)));
