/* Every limit on what a client, a peer or a file can enlarge, with the reason for its value. */
#ifndef NEF_BASE_LIMITS_H
#define NEF_BASE_LIMITS_H

/* the region's shape */
#define NEF_REPLICA_MAX 4u  /* two zones, and room for one that joins and one that leaves */
#define NEF_CELL_MAX    64u /* cells of a group; 4 by default, more than cores never helps */
#define NEF_ZONE_NAME_MAX 32u

/* S3 (Amazon S3 User Guide, "Amazon S3 multipart upload limits", "Object key naming") */
#define NEF_BUCKET_NAME_MAX   63u
#define NEF_OBJECT_KEY_MAX    1024u
#define NEF_USER_METADATA_MAX 2048u            /* bytes of names and values */
#define NEF_PUT_BYTES_MAX     (5ull << 30)     /* one PUT, one part, one copy */
#define NEF_OBJECT_BYTES_MAX  (5ull << 40)     /* a completed multipart upload */
#define NEF_PART_BYTES_MIN    (5ull << 20)     /* every part but the last */
#define NEF_PART_COUNT_MAX    10000u
#define NEF_LIST_MAX          1000u
#define NEF_DELETE_MAX        1000u            /* keys of a multi-delete */
#define NEF_XML_BODY_MAX      (2u << 20)       /* 1,000 keys of 1,024 escaped bytes fit */
#define NEF_HEADERS_MAX       (16u << 10)      /* S3: 8 KB of request headers; we take 16 */
#define NEF_ATTRS_BYTES_MAX   (32u << 10)      /* what is kept of headers, with its lengths */
#define NEF_TARGET_MAX        (8u << 10)
#define NEF_CHUNK_LINE_MAX    (1u << 10)       /* aws-chunked: size, extension, signature */
#define NEF_TRAILERS_MAX      (4u << 10)
#define NEF_BUCKET_COUNT_MAX  10000u           /* S3's default quota of buckets is 10,000 */
#define NEF_USER_COUNT_MAX    10000u

/* the data path */
#define NEF_PIECE_BYTES       (1u << 20)       /* plaintext of a data record */
#define NEF_INLINE_BYTES_MAX  (64u << 10)      /* an object up to this lies inside its put op */
#define NEF_UPLOAD_PIECES_MAX 4u               /* of one upload in flight: bounds memory per upload */
#define NEF_RECORD_BODY_MAX   (2u << 20)       /* a piece, its tag, or the largest op or checkpoint block */
#define NEF_PROPOSAL_BYTES_MAX (3u << 20)      /* records that are appended together */
#define NEF_PROPOSAL_RECORDS_MAX 4u
#define NEF_PROPOSALS_MAX     4096u            /* outstanding from one process, all cells */
#define NEF_LATER_MAX         8192u            /* callers that wait to be called again: an abort each */
#define NEF_PROPOSAL_MEMORY   (64u << 20)      /* bytes of them: the back-pressure of uploads */
#define NEF_OUTCOMES_KEPT     8192u            /* per proposer; > NEF_PROPOSALS_MAX, so none in flight is forgotten */
#define NEF_PROPOSERS_KEPT    32u              /* starts whose outcomes are kept per cell */
#define NEF_MESSAGE_BYTES_MAX (4u << 20)       /* between zones: a run of log or a proposal */
#define NEF_EPOCH_OVERRIDE_STEP (1ull << 20)   /* an accepted loss skips those that the lost majority may have made: \
                                                   one a second for twelve days */
#define NEF_EPOCHS_KEPT       256u             /* entries of the table epoch -> first offset */
#define NEF_LOG_FILES_MAX     64u              /* files of old segments a cell keeps open; 64 cells * 64 stay below 4,096 */

/* inference */
#define NEF_MATRIX_N_MAX (1u << 22) /* outputs of a weight matrix: the largest vocabularies have 2^18 */
#define NEF_MATRIX_K_MAX (1u << 18) /* inputs: the largest dense models have 2^15; bounds kernels' scratch */

/* configuration and admin */
#define NEF_CONFIG_FILE_MAX   (1u << 20)
#define NEF_ETCD_ANSWER_MAX   (1u << 20)

/* inference API */
#define NEF_INFER_BODY_MAX            (8u << 20)    /* of a request: 40,960 tokens of text are about 200 KB */
#define NEF_INFER_BODIES_MAX          (256ull << 20) /* of all requests at once */
#define NEF_INFER_BODY_SECONDS_MAX    120u          /* until a body is in */
#define NEF_INFER_JSON_CONTAINERS_MAX 65536u        /* arrays and objects of a body: each takes some 100 bytes */
#define NEF_INFER_JSON_VALUES_MAX     1048576u      /* token ids, above all */
#define NEF_INFER_PROMPTS_MAX         64u           /* of one completion request */
#define NEF_INFER_STOP_BYTES_MAX      256u          /* of a stop string; so much text is held back at most */
#define NEF_INFER_TOOLS_MAX           128u          /* as OpenAI */
#define NEF_INFER_CONNECTIONS_MAX     2048u         /* each costs about 50 KB; some may belong to clients that left */
#define NEF_INFER_WAITING_MAX         1024u         /* choices that wait for a slot */
#define NEF_INFER_TENANT_WAITING_MAX  256u          /* of one tenant, behind a gateway */
#define NEF_INFER_CHOICES_MAX         128u          /* of one request: prompts times n; OpenAI's n ends there */
#define NEF_INFER_INPUTS_MAX          2048u         /* of one embeddings request, as OpenAI */
#define NEF_INFER_FUNCTION_NAME_MAX   128u          /* OpenAI takes 64 */
#define NEF_INFER_ANSWERS_MAX         (1ull << 30)  /* ids and logprobs that were made and not read, all answers */
#define NEF_INFER_GRAMMARS_BYTES_MAX  (256ull << 20) /* compiled grammars that are kept */
#define NEF_INFER_GRAMMARS_MAX        1024u

/* AI rights and budgets of users, stored responses */
#define NEF_AI_WEIGHT_MAX     1000u            /* a share of a thousandth is the finest an engine knows */
#define NEF_AI_PRIORITY_MAX 9u
#define NEF_AI_BUDGET_MAX     (1ull << 40)     /* requests or tokens in 60 s: far above any machine, and sums stay small */
#define NEF_AI_CONCURRENCY_MAX 65536u          /* more than a gateway has connections */
#define NEF_BUDGET_ENTRIES_MAX 1024u           /* users of one budget op: about 400 KB */
#define NEF_RESPONSES_LIVE_MAX 4096u           /* answers that one zone makes and keeps at the same time */
#define NEF_RESPONSES_BYTES_MAX (16u << 20)    /* chunks of one stored answer */
#define NEF_RESPONSES_CHAIN_MAX 128u           /* responses behind one another (previous_response_id) */
#define NEF_RESPONSES_ITEMS_MAX 16384u         /* of a conversation, as messages of a chat */

/* model files: the largest dense Qwen (72B) has 80 layers, width 8192, ffn 29568, 64 heads, a vocabulary of 152,064 */
#define NEF_MODEL_LAYERS_MAX  1024u
#define NEF_MODEL_WIDTH_MAX   (1u << 17)       /* of a row of activations; a dot product's int32 sums are per 32 columns */
#define NEF_MODEL_HEADS_MAX   1024u
#define NEF_MODEL_GROUP_MAX   64u              /* heads that share one kv head: rows of one attention task */
#define NEF_MODEL_VOCAB_MAX   (1u << 20)
#define NEF_MODEL_CONTEXT_MAX (1u << 24)
#define NEF_MODEL_FILES_MAX   256u             /* of a split model */
#define NEF_MODEL_NAME_MAX    120u             /* of a model in the region: it is an alias of the engine, too (128 with its NUL) */
#define NEF_MODELS_MAX        1000u            /* models of a region that are listed: one page of a listing */
#define NEF_MODEL_HEAD_MAX    (256ull << 20)   /* metadata of a model file: Qwen's tokenizer takes 6 MB */
#define NEF_ENGINE_SLOTS_MAX  1024u            /* sequences of one engine: more than a batch has rows only take turns */
#define NEF_ENGINE_BIAS_MAX   1024u            /* tokens with a bias of one request; OpenAI takes 300 */
#define NEF_ENGINE_BUDGET_MAX 1024u            /* tokens that end a model's thinking */
#define NEF_ENGINE_LOGPROBS_MAX 20u            /* most likely tokens told beside one; as OpenAI */
#define NEF_ENGINE_WEIGHT_MAX 1000u            /* of a tenant: shares of a thousandth are the finest */
#define NEF_ENGINE_PRIORITY_MAX 100u
#define NEF_ENGINE_IDLE_TENANTS_MAX 4096u      /* whose counters are kept after their last request: 80 bytes each */

/* inference: the tokenizer of a model file (Qwen: 151,936 tokens, 151,387 merges, 1.2 MB, 256 bytes the longest) and chats */
#define NEF_VOCAB_MAX         (1u << 20)
#define NEF_VOCAB_BYTES_MAX   (64u << 20)      /* of all tokens, and of all merges */
#define NEF_MERGES_MAX        (1u << 22)
#define NEF_TOKEN_BYTES_MAX   2048u            /* of one token as the file writes it */
#define NEF_SPECIAL_BYTES_MAX 128u             /* of a special token: what one place of a text can cost */
#define NEF_CHAT_MESSAGES_MAX 16384u           /* a context of 131,072 tokens holds no more messages of 8 tokens */
#define NEF_CHAT_TOOLS_MAX    1024u            /* OpenAI takes 128 */
#define NEF_CHAT_JSON_DEPTH_MAX 128u           /* of a tool's schema or a call's arguments: bounds recursion */
#define NEF_CHAT_CALL_BYTES_MAX (1u << 20)     /* one generated <tool_call> block, kept until it is whole */

/* grammars, compiled from a client's JSON Schema: a compilation stays below half a second and 64 MB */
#define NEF_SCHEMA_NODES_MAX  16384u           /* schemas in a schema; OpenAI takes 5,000 properties */
#define NEF_SCHEMA_DEPTH_MAX  256u             /* of schemas in schemas, through $ref too: bounds recursion */
#define NEF_SCHEMA_ALTERNATIVES_MAX 1024u      /* at one place, from anyOf and types */
#define NEF_SCHEMA_COUNT_MAX  4096u            /* minItems, maxItems, {n,m} of a pattern: each makes states */
#define NEF_SCHEMA_REF_MAX    1024u            /* bytes of a $ref */
#define NEF_PATTERN_BYTES_MAX 4096u
#define NEF_PATTERN_NODES_MAX 16384u           /* of a pattern's automaton, after {n,m} */
#define NEF_PATTERN_DEPTH_MAX 64u              /* groups in groups */
#define NEF_GRAMMAR_INLINE_MAX 16u             /* containers in containers in one rule; deeper ones get their own */
#define NEF_GRAMMAR_RULES_MAX 4096u
#define NEF_GRAMMAR_NFA_MAX   (1u << 18)       /* edges of one rule before determinization */
#define NEF_GRAMMAR_STATES_MAX (1u << 16)
#define NEF_GRAMMAR_EDGES_MAX (1u << 19)
#define NEF_GRAMMAR_ROWS_MAX  8192u            /* states with many edges that get a table of 1 KB */
#define NEF_GRAMMAR_WORK_MAX  (1u << 25)       /* elementary steps of all determinizations */
#define NEF_GRAMMAR_DEPTH_MAX 64u              /* containers in containers of a generated text, through recursion */
#define NEF_GRAMMAR_CACHE_MAX (32u << 20)      /* bytes of masks that one grammar keeps: 1,700 large ones */
#define NEF_GRAMMAR_CACHES_MAX (512u << 20)    /* of all grammars of a vocabulary; beyond, masks are made anew each time */
#define NEF_GRAMMAR_CONFIGS_MAX 128u           /* ways that one text can be read at once; more aren't followed */

/* the gateway; what an engine takes of a request is above */
#define NEF_AI_BACKENDS_MAX   16u              /* of a zone's configuration */
#define NEF_AI_ENGINES_MAX    8u               /* built-in engines of a zone: each holds a model in memory */
#define NEF_AI_RUNS_MAX       65536u           /* requests under way at once: each costs some 30 KB */
#define NEF_AI_CHOICES_MAX    128u             /* n, and prompts of a completion, of one request */
#define NEF_AI_EVENT_MAX      (4u << 20)       /* one event of a backend's stream: a whole tool call with logprobs fits */
#define NEF_AI_ANSWER_MAX     (32u << 20)      /* what is kept of one answer: it must be replayed when its backend is lost */
#define NEF_AI_TRIES_MAX      16u              /* backends that one request is lost on before it fails */
#define NEF_AI_PENDING_MAX    (64u << 10)      /* bytes that wait for a slow client before its backend is paused */

#endif
