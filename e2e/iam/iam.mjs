// Evaluates requests against IAM policies, with a simulator that is not ours: reads a JSON list, prints one of results.
import { readFileSync } from 'node:fs'
import { createRequire } from 'node:module'

const { runSimulation } = createRequire(new URL('../../.npm/', import.meta.url))('@cloud-copilot/iam-simulate')

const everything = { Version: '2012-10-17', Statement: [{ Effect: 'Allow', Action: '*', Resource: '*' }] }

async function evaluate({ policy, trust, principal, action, resource, account, context }) {
  const answer = await runSimulation({
    request: { principal, action, resource: { resource, accountId: account }, contextVariables: context ?? {} },
    identityPolicies: policy ? [{ name: 'policy', policy }] : [],
    resourcePolicy: trust,
    serviceControlPolicies: [{ orgIdentifier: 'root', policies: [{ name: 'FullAWSAccess', policy: everything }] }],
    resourceControlPolicies: [],
  }, {})
  const ignored = answer.result?.ignoredContextKeys ?? []
  if (answer.resultType !== 'single' || ignored.length > 0) {
    return JSON.stringify(answer.errors ?? ignored)
  }
  return answer.overallResult
}

console.log(JSON.stringify(await Promise.all(JSON.parse(readFileSync(0, 'utf8')).map(evaluate))))
