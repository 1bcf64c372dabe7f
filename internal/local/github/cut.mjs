// Cuts testdata/*.json out of GitHub's full description: the operations below, and what they refer to. Run it here:
//
//	npm pack @octokit/openapi@23.0.2
//	tar xzf octokit-openapi-23.0.2.tgz
//	node cut.mjs package
//	rm -r octokit-openapi-23.0.2.tgz package
import { readFileSync, writeFileSync } from "node:fs";

const runners = ["/orgs/{org}", "/repos/{owner}/{repo}", "/enterprises/{enterprise}"];
const wanted = [
  ...runners.flatMap((target) => [
    ...["registration-token", "remove-token", "generate-jitconfig"].map((kind) => `${target}/actions/runners/${kind}`),
    `${target}/installation`, // not of an enterprise in GitHub Enterprise Server 3.19
  ]),
  "/app/installations/{installation_id}/access_tokens",
];

const from = process.argv[2];
const origin = JSON.parse(readFileSync(`${from}/package.json`));

// patched applies what a later version of the API changes in a schema: a merge patch (RFC 7396).
function patched(value, patch) {
  if (patch === null || typeof patch !== "object" || Array.isArray(patch)) return patch;
  for (const [key, change] of Object.entries(patch)) {
    if (change === null) delete value[key];
    else value[key] = patched(value[key] ?? {}, change);
  }
  return value;
}

// What people read, and not needed here. A response must have a description.
const prose = ["description", "title", "example", "deprecated", "tags", "externalDocs", "x-octokit", "category",
  "subcategory"];

// cut copies value in the version without its prose, and adds to refs what it refers to.
function cut(value, version, refs, parent) {
  if (value === null || typeof value !== "object") return value;
  if (Array.isArray(value)) return value.map((item) => cut(item, version, refs));
  const { "x-github-breaking-changes": changes = [], ...rest } = structuredClone(value);
  const now = changes.filter((c) => c.version <= version).reduce((at, c) => patched(at, c.patch), rest);
  if (now.$ref) refs.add(now.$ref);
  return Object.fromEntries(Object.entries(now)
    .filter(([key]) => parent === "properties" || !prose.includes(key) || key === "description" && now.content)
    .map(([key, item]) => [key, key === "value" ? item : cut(item, version, refs, key)]));
}

for (const [file, name, version] of [
  ["ghec.json", "2022-11-28", "2022-11-28"], // the file of plain api.github.com lacks the enterprises
  ["ghec.json", "2026-03-10", "2026-03-10"],
  ["ghes-3.19.json", "ghes-3.19", "2022-11-28"],
]) {
  const full = JSON.parse(readFileSync(`${from}/generated/${file}`));
  const refs = new Set(); // iterating over a Set visits what is added meanwhile
  const paths = Object.fromEntries(wanted.filter((path) => full.paths[path])
    .map((path) => [path, cut(full.paths[path], version, refs)]));
  const components = {};
  for (const ref of refs) {
    const [kind, key] = ref.split("/").slice(2);
    (components[kind] ??= {})[key] = cut(full.components[kind][key], version, refs);
  }
  writeFileSync(`testdata/github-runners-${name}.json`, JSON.stringify({
    openapi: full.openapi,
    info: {
      title: "GitHub's REST API, self-hosted runner tokens only",
      version,
      license: full.info.license,
      termsOfService: full.info.termsOfService,
      "x-source": `${origin.name}@${origin.version} (npm, MIT), ${file}; ` +
        "it repackages https://github.com/github/rest-api-description (MIT)",
    },
    servers: full.servers,
    paths,
    components,
  }));
}
