// Prints what a signer of npm's makes of each of cases.json. The signer is aws4 or smithy.
//
// node internal/local/sigv4/testdata/vectors.mjs aws4 >internal/local/sigv4/testdata/aws4.json
import { createHash, createHmac } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { createRequire } from 'node:module'

const require = createRequire(new URL('../../../../.npm/', import.meta.url))
const cases = JSON.parse(readFileSync(new URL('cases.json', import.meta.url)))
const host = '127.0.0.1:3000'
const [region, service] = ['eu-central-1', 'execute-api']
const user = { accessKeyId: 'AKIDEXAMPLE', secretAccessKey: 'secret/+EXAMPLE' }
const role = { accessKeyId: 'ASIAEXAMPLE', secretAccessKey: 'secret/+EXAMPLE', sessionToken: 'IQoJb3JpZ2luX2Vj//8=' }

const signers = {
  aws4({ path, presign, session, headers = {}, body }) {
    // It takes the time from where it would put it, or from Date.
    const date = 'X-Amz-Date'
    const now = '20000101T000304Z'
    const request = { method: 'POST', host, service, region, path, body, headers: { ...headers }, signQuery: presign }
    if (presign) {
      request.path += `${path.includes('?') ? '&' : '?'}${date}=${now}&X-Amz-Expires=600`
    } else if (headers.Date) {
      request.headers.Host = host
      request.doNotModifyHeaders = true // it would add X-Amz-Date
    } else {
      request.headers[date] = now
    }
    return require('aws4').sign(request, session ? role : user)
  },

  async smithy({ path, presign, session, headers = {}, body }) {
    if (Object.values(headers).some(Array.isArray)) {
      return // it knows one line of a header
    }
    const { SignatureV4 } = require('@smithy/signature-v4')
    class Sha256 {
      constructor(key) { this.hash = key ? createHmac('sha256', key) : createHash('sha256') }
      update(data) { this.hash.update(data) }
      async digest() { return new Uint8Array(this.hash.digest()) }
    }
    const signer = new SignatureV4({ region, service, sha256: Sha256, credentials: session ? role : user })
    const url = new URL(`http://${host}`)
    const [pathname, search] = path.split('?')
    const query = {}
    for (const [name, value] of new URLSearchParams(search)) {
      query[name] = name in query ? [query[name], value].flat() : value
    }
    const request = {
      method: 'POST', protocol: 'http:', hostname: url.hostname, port: url.port, path: pathname, query, body,
      headers: { host, ...headers },
    }
    const now = { signingDate: new Date('2000-01-01T00:03:04Z') }
    const signed = await (presign ? signer.presign(request, now) : signer.sign(request, now))
    const pairs = Object.entries(signed.query).flatMap(([name, values]) =>
      [values].flat().map((value) => `${encodeURIComponent(name)}=${encodeURIComponent(value)}`))
    return { path: signed.path + (pairs.length ? '?' + pairs.join('&') : ''), headers: signed.headers }
  },
}

const vectors = []
for (const { name, ...it } of cases) {
  const signed = await signers[process.argv[2]](it)
  if (!signed) {
    continue
  }
  const { path, headers } = signed
  const lines = Object.entries(headers).filter(([header]) => header.toLowerCase() !== 'host')
    .flatMap(([header, values]) => [values].flat().map((value) => `${header}: ${value}`))
  vectors.push({ name, request: [`POST ${path} HTTP/1.1`, `Host: ${host}`, ...lines], body: it.body ?? '' })
}
console.log(JSON.stringify(vectors, null, 2))
