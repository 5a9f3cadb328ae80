// `@ai-sdk/openai-compatible` with `ai`: text, its stream, objects, tools in a loop; embeddings are refused.
import assert from "node:assert/strict";
import { parseArgs } from "node:util";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { embed, generateObject, generateText, jsonSchema, Output, streamText, tool } from "ai";
import { z } from "zod";

const { values: given } = parseArgs({
  options: {
    "base-url": { type: "string", default: "http://127.0.0.1:8000/v1" },
    model: { type: "string", default: "smollm2" },
    only: { type: "string" },
  },
});
const baseURL = given["base-url"];
const CAPITAL = "What is the capital of France? Answer in one sentence.";
const SETTINGS = { temperature: 0, maxOutputTokens: 80, maxRetries: 0 };

const tinyllm = createOpenAICompatible({
  name: "tinyllm",
  baseURL,
  apiKey: "any",
  includeUsage: true,
  supportsStructuredOutputs: true,
});
const model = tinyllm(given.model);

const Place = z.object({ capital: z.enum(["Paris", "Rome"]), large: z.boolean() });
const getWeather = tool({
  description: "Tells the weather of a city.",
  inputSchema: z.object({ city: z.enum(["Oslo", "Rome"]) }),
  execute: async ({ city }) => `rain in ${city}`,
});

const checks = {
  async chat() {
    const { text, finishReason, usage } = await generateText({ model, prompt: CAPITAL, ...SETTINGS });
    assert.match(text, /Paris/);
    assert.equal(finishReason, "stop");
    assert(usage.outputTokens > 0 && usage.inputTokens > 0);
  },

  async chat_goes_on() {
    const messages = [{ role: "user", content: CAPITAL }];
    const { response } = await generateText({ model, messages, system: "You are brief.", ...SETTINGS });
    messages.push(...response.messages, { role: "user", content: [{ type: "text", text: "And Italy?" }] });
    const { text } = await generateText({ model, messages, ...SETTINGS });
    assert(text.length > 0);
  },

  async stream() {
    const { textStream, finishReason, usage } = streamText({ model, prompt: CAPITAL, ...SETTINGS, onError: raise });
    let streamed = "";
    for await (const text of textStream) streamed += text;
    const { text } = await generateText({ model, prompt: CAPITAL, ...SETTINGS });
    assert.equal(streamed, text);
    assert.equal(await finishReason, "stop");
    assert((await usage).outputTokens > 0);
  },

  async structured_output() {
    const described = { schema: Place, name: "Place", description: "A place." };
    const { output } = await generateText({ model, prompt: CAPITAL, output: Output.object(described), ...SETTINGS });
    Place.parse(output);
  },

  async generate_object() {
    const { object, finishReason } = await generateObject({
      model,
      prompt: CAPITAL,
      schema: Place,
      schemaDescription: "A place.",
      ...SETTINGS,
    });
    Place.parse(object);
    assert.equal(finishReason, "stop");
  },

  async structured_stream() {
    const { output, partialOutputStream } = streamText({
      model,
      prompt: CAPITAL,
      output: Output.object({ schema: Place }),
      ...SETTINGS,
      onError: raise,
    });
    let states = 0;
    for await (const _ of partialOutputStream) states += 1;
    assert(states > 1);
    Place.parse(await output);
  },

  async structured_choice() {
    const { output } = await generateText({
      model,
      prompt: CAPITAL,
      output: Output.choice({ options: ["Paris", "Rome"] }),
      ...SETTINGS,
    });
    assert(["Paris", "Rome"].includes(output));
  },


  // zod writes these as propertyNames, formats, bounds, anyOf with null, defaults
  async schema_of_many_kinds() {
    const schema = z.object({
      count: z.int().min(0).max(9),
      note: z.string().max(8).nullable(),
      kind: z.union([z.literal("a"), z.literal("b")]),
      pairs: z.record(z.string(), z.boolean()).optional(),
      tags: z.array(z.enum(["x", "y"])).max(2),
    });
    const { output } = await generateText({
      model,
      prompt: CAPITAL,
      output: Output.object({ schema }),
      ...SETTINGS,
      maxOutputTokens: 200,
    });
    schema.parse(output);
  },

  // without supportsStructuredOutputs the schema is not sent: any JSON object may come
  async json_object() {
    const plain = createOpenAICompatible({ name: "tinyllm", baseURL, apiKey: "any" })(given.model);
    const { text } = await generateText({
      model: plain,
      prompt: "What is the capital of France? Answer in JSON.",
      output: Output.json(),
      ...SETTINGS,
    });
    assert.equal(typeof JSON.parse(text), "object");
  },

  async tools() {
    const { steps } = await generateText({
      model,
      prompt: "What is the weather in Oslo?",
      tools: { get_weather: getWeather },
      toolChoice: "required",
      providerOptions: { tinyllm: { parallel_tool_calls: false } },
      ...SETTINGS,
    });
    assert.deepEqual(steps[0].toolCalls.map(({ toolName }) => toolName), ["get_weather"]);
    assert.match(steps[0].toolResults[0].output, /^rain in (Oslo|Rome)$/);
    assert.equal(steps[0].finishReason, "tool-calls");
    const messages = [{ role: "user", content: "What is the weather in Oslo?" }, ...steps[0].response.messages];
    const answer = await generateText({ model, messages, tools: { get_weather: getWeather }, ...SETTINGS });
    assert(answer.text.length > 0 || answer.toolCalls.length > 0);
  },

  async tools_stream() {
    const { fullStream, toolCalls } = streamText({
      model,
      prompt: "What is the weather in Oslo?",
      tools: { get_weather: getWeather },
      toolChoice: { type: "tool", toolName: "get_weather" },
      ...SETTINGS,
      onError: raise,
    });
    const kinds = new Set();
    for await (const part of fullStream) kinds.add(part.type);
    assert(kinds.has("tool-input-delta") && kinds.has("tool-result"), [...kinds].join());
    assert.equal((await toolCalls)[0].toolName, "get_weather");
  },

  async tools_strict_beside_output() {
    const { steps } = await generateText({
      model,
      prompt: CAPITAL,
      tools: { get_weather: { ...getWeather, strict: true } },
      output: Output.object({ schema: Place }),
      ...SETTINGS,
    });
    if (steps[0].toolCalls.length === 0) Place.parse(JSON.parse(steps[0].text));
  },

  async tool_by_json_schema() {
    const { toolCalls } = await generateText({
      model,
      prompt: "What is the weather in Oslo?",
      tools: {
        get_weather: tool({
          inputSchema: jsonSchema({
            $schema: "http://json-schema.org/draft-07/schema#",
            type: "object",
            properties: { city: { type: "string", maxLength: 20 } },
            required: ["city"],
            additionalProperties: false,
          }),
        }),
      },
      toolChoice: "required",
      ...SETTINGS,
    });
    assert.equal(typeof toolCalls[0].input.city, "string");
  },

  async completions() {
    const completion = tinyllm.completionModel(given.model);
    const asked = { model: completion, prompt: "One, two, three,", ...SETTINGS, maxOutputTokens: 8 };
    const { text } = await generateText(asked);
    assert(text.length > 0);
    let streamed = "";
    for await (const part of streamText({ ...asked, onError: raise }).textStream) streamed += part;
    assert.equal(streamed, text);
  },

  async embeddings_are_refused() {
    await assert.rejects(
      embed({ model: tinyllm.embeddingModel(given.model), value: "a text", maxRetries: 0 }),
      /\/v1\/embeddings/,
    );
  },
};

function raise({ error }) {
  throw error;
}

for (const [name, check] of Object.entries(checks)) {
  if (given.only !== undefined && given.only !== name) continue;
  try {
    await check();
    console.log(`ok: ${name}`);
  } catch (error) {
    console.error(error);
    console.log(`failed: ${name}: ${error.name}: ${error.message.replace(/\s+/g, " ")}`);
    process.exitCode = 1;
  }
}
