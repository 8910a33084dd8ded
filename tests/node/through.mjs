// Loaded into a client that knows of no mesh: leads its connections to its sidecar, whatever their URL, as in a pod, and
// shows the capability.
//
// usage: SIDECAR=ADDRESS:PORT TOKEN=... node --import PATH/through.mjs CLIENT

import { Agent, buildConnector, setGlobalDispatcher } from "undici";

const [hostname, port] = process.env.SIDECAR.split(":");
const connect = buildConnector({});
const toSidecar = new Agent({ connect: (options, done) => connect({ ...options, host: hostname, hostname, port }, done) });

// Headers come as an array of names and values, or as an object.
const withToken = (headers) => {
  const bearer = `Bearer ${process.env.TOKEN}`;
  return Array.isArray(headers) ? [...headers, "authorization", bearer] : { ...headers, authorization: bearer };
};
setGlobalDispatcher(
  toSidecar.compose((dispatch) => (options, handler) => dispatch({ ...options, headers: withToken(options.headers) }, handler)),
);
