// Prints as JSON what the PowerShell grammar of tree-sitter sees in a script: node powershell.mjs SCRIPT
import { readFileSync } from 'node:fs'
import { createRequire } from 'node:module'

const require = createRequire(new URL('../../.npm/package.json', import.meta.url))
const { Parser, Language } = require('web-tree-sitter')
await Parser.init()
const parser = new Parser()
parser.setLanguage(await Language.load(require.resolve('tree-sitter-powershell/tree-sitter-powershell.wasm')))
const { rootNode } = parser.parse(readFileSync(process.argv[2], 'utf8'))

const line = (node) => node.startPosition.row + 1
const all = (...types) => rootNode.descendantsOfType(types)
const name = (command) => command.childForFieldName('command_name')?.text ?? command.namedChild(0).text

// What a pipeline calls, if it is nothing but a call.
function call(pipeline) {
  let node = pipeline
  while (!/^command$|^invokation_expression$/.test(node.type) && node.namedChildCount === 1) node = node.namedChild(0)
  if (node.type === 'command') return name(node)
  if (node.type === 'invokation_expression') return '.' + node.namedChildren.find((n) => n.type === 'member_name').text
}

// Whether what the node writes becomes a value: something takes it, or it comes last.
const taker =
  /^(assignment|sub|parenthesized|array|script_block)_expression$|^(flow_control|function)_statement$|^hash_entry$/
function isValue(node) {
  for (; node.parent; node = node.parent) {
    const { type, namedChildren } = node.parent
    if (taker.test(type)) return true
    if (/^(while|for|foreach|do)_statement$|^finally_clause$/.test(type)) return false
    if (type === 'statement_list' && !namedChildren.findLast((n) => n.type !== 'comment').equals(node)) return false
  }
  return true
}

function faults(node) {
  if (node.isMissing) return [`line ${line(node)}: ${node.type} is missing`]
  if (node.isError) return [`line ${line(node)}: ${node.text}`]
  return node.hasError ? node.children.flatMap(faults) : []
}

console.log(JSON.stringify({
  errors: faults(rootNode),
  operators: all('pipeline_chain_tail').map((n) => `line ${line(n)}: ${n.text}`),
  functions: all('function_statement').map((f) => ({ name: f.namedChild(0).text, line: line(f), text: f.text })),
  commands: all('command').map((c) => ({
    name: name(c),
    line: line(c),
    parameters: c.descendantsOfType('command_parameter').filter((p) => p.parent.parent.equals(c)).map((p) => p.text),
  })),
  types: all('type_literal').map((n) => ({ name: n.text.slice(1, -1), line: line(n) })),
  long: all('expandable_string_literal', 'verbatim_string_characters', 'expandable_here_string_literal',
    'verbatim_here_string_characters').filter((n) => n.text.includes('\n')).map(line),
  unused: all('pipeline')
    .filter((p) => p.parent.type === 'statement_list' && call(p) && !isValue(p))
    .map((p) => ({ name: call(p), line: line(p) })),
}))
