//! Patterns that these scenarios call.

/// Those of them that write: tools of their own.
pub(super) const PROMOTED: &str = "accept.label,accept.touch,accept.forget";

/// Gives back what it was given.
const ECHO: &str = "\
apiVersion: tmws/v1
kind: Pattern
name: accept.echo
version: 1.0.0
type: infrastructure
description: Gives back a text of the acceptance run.
inputs:
  type: object
  additionalProperties: false
  required: [text]
  properties: {text: {type: string, maxLength: 4000}}
permissions: {}
limits: {timeout: 20s, max_steps: 1, max_bytes: 1MiB}
steps:
  - {id: said, uses: data.jq, with: {filter: '.inputs.text'}}
output:
  schema: {type: object, required: [text], properties: {text: {type: string}}}
  value: '${ {text: .steps.said} }'
  budget: {tokens: 400}
annotations: {readOnlyHint: true}
";

/// Looks for a text in all files: long enough for many to ask meanwhile. One answer for a whole project.
const SWEEP: &str = "\
apiVersion: tmws/v1
kind: Pattern
name: accept.sweep
version: 1.0.0
type: infrastructure
description: Looks for a text of the acceptance run in all files.
inputs:
  type: object
  additionalProperties: false
  required: [text]
  properties: {text: {type: string, maxLength: 400}}
bind:
  root: {from: workspace.root}
permissions: {fs.read: ['${ .bind.root }']}
limits: {timeout: 20s, max_steps: 1, max_bytes: 4MiB}
steps:
  - {id: found, uses: fs.grep, with: {root: '${ .bind.root }', pattern: '${ .inputs.text }', literal: true, limit: 400}}
output:
  schema: {type: object, required: [text, n, files], properties: {text: {type: string}, n: {type: integer}, files: {type: integer}}}
  value: '${ {text: .inputs.text, n: .steps.found.n, files: .steps.found.files_n} }'
  budget: {tokens: 200}
cache: {ttl: 60s, scope: project}
annotations: {readOnlyHint: true}
";

/// The newest memories with a tag, whole. Kept until a memory changes.
const NEWEST: &str = "\
apiVersion: tmws/v1
kind: Pattern
name: accept.newest
version: 1.0.0
type: memory
description: Gives the newest memory of the acceptance run with a tag.
inputs:
  type: object
  additionalProperties: false
  required: [tag]
  properties: {tag: {type: string, maxLength: 128}}
permissions: {memory: [read]}
limits: {timeout: 20s, max_steps: 1, max_bytes: 4MiB}
steps:
  - {id: listed, uses: memory.list, with: {tags: ['${ .inputs.tag }'], k: 1}}
output:
  schema: {type: object, required: [total, memories], properties: {total: {type: integer}, memories: {type: array}}}
  value: '${ {total: .steps.listed.total, memories: [.steps.listed.hits[] | {id, text}]} }'
  budget: {tokens: 3000}
cache: {ttl: 60s, scope: principal, key: [memory.generation]}
annotations: {readOnlyHint: true}
";

/// One memory by its id. Kept until a memory changes.
const GET: &str = "\
apiVersion: tmws/v1
kind: Pattern
name: accept.get
version: 1.0.0
type: memory
description: Gives one memory of the acceptance run with its labels.
inputs:
  type: object
  additionalProperties: false
  required: [id]
  properties: {id: {type: string, maxLength: 64}}
permissions: {memory: [read]}
limits: {timeout: 20s, max_steps: 1, max_bytes: 4MiB}
steps:
  - {id: got, uses: memory.get, with: {id: '${ .inputs.id }'}}
output:
  schema: {type: object, required: [id], properties: {id: {type: string}, tags: {type: array}, kind: {type: string}, importance: {type: number}}}
  value: '${ .steps.got | {id, tags, kind, importance} }'
  budget: {tokens: 400}
cache: {ttl: 60s, scope: principal, key: [memory.generation]}
annotations: {readOnlyHint: true}
";

/// Labels one memory.
const LABEL: &str = "\
apiVersion: tmws/v1
kind: Pattern
name: accept.label
version: 1.0.0
type: memory
description: Labels one memory of the acceptance run.
inputs:
  type: object
  additionalProperties: false
  required: [id, label, importance]
  properties: {id: {type: string, maxLength: 64}, label: {type: string, maxLength: 64}, importance: {type: number}}
permissions: {memory: [write]}
limits: {timeout: 20s, max_steps: 1, max_bytes: 1MiB}
steps:
  - id: labelled
    uses: memory.update
    with: {id: '${ .inputs.id }', tags: ['${ .inputs.label }'], kind: '${ .inputs.label }', importance: '${ .inputs.importance }'}
output:
  schema: {type: object, required: [id, kind], properties: {id: {type: string}, kind: {type: string}}}
  value: '${ .steps.labelled | {id, kind} }'
  budget: {tokens: 200}
annotations: {readOnlyHint: false}
";

/// Labels several memories in the order of their ids as given, one after the other.
const TOUCH: &str = "\
apiVersion: tmws/v1
kind: Pattern
name: accept.touch
version: 1.0.0
type: memory
description: Labels several memories of the acceptance run, in the given order.
inputs:
  type: object
  additionalProperties: false
  required: [ids, importance]
  properties:
    ids: {type: array, maxItems: 50, items: {type: string, maxLength: 64}}
    importance: {type: number}
permissions: {memory: [write]}
limits: {timeout: 30s, max_steps: 60, max_bytes: 4MiB}
steps:
  - id: touched
    uses: control.foreach
    with:
      items: '${ .inputs.ids }'
      as: one
      limit: 50
      concurrency: 1
      steps:
        - {id: now, uses: memory.update, with: {id: '${ .one }', importance: '${ .inputs.importance }'}}
output:
  schema: {type: object, required: [touched], properties: {touched: {type: integer}}}
  value: '${ {touched: .steps.touched.n} }'
  budget: {tokens: 100}
annotations: {readOnlyHint: false}
";

/// Forgets memories, and says which.
const FORGET: &str = "\
apiVersion: tmws/v1
kind: Pattern
name: accept.forget
version: 1.0.0
type: memory
description: Forgets memories of the acceptance run.
inputs:
  type: object
  additionalProperties: false
  required: [ids]
  properties: {ids: {type: array, maxItems: 50, items: {type: string, maxLength: 64}}}
permissions: {memory: [write]}
limits: {timeout: 20s, max_steps: 1, max_bytes: 1MiB}
steps:
  - {id: gone, uses: memory.forget, with: {ids: '${ .inputs.ids }'}}
output:
  schema: {type: object, required: [forgotten], properties: {forgotten: {type: array}}}
  value: '${ .steps.gone | {forgotten} }'
  budget: {tokens: 4000}
annotations: {readOnlyHint: false, destructiveHint: true}
";

/// File names and texts.
pub(super) fn files() -> Vec<(String, String)> {
    let all = [
        ("echo", ECHO),
        ("sweep", SWEEP),
        ("newest", NEWEST),
        ("get", GET),
        ("label", LABEL),
        ("touch", TOUCH),
        ("forget", FORGET),
    ];
    all.into_iter().map(|(name, text)| (format!("accept.{name}.yaml"), text.to_owned())).collect()
}
