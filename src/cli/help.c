/* `nef help`: every command explained, with examples. The text is the reference; docs/operations.md
 * tells when to use what. One line of text is one line of source, however long. */
#include <stdio.h>
#include "cli/cli.h"

/* clang-format off */
#define OF_REGION                                                                                  \
    "Which region:\n"                                                                              \
    "  --dir DIR           one that nef up made on this machine\n"                                 \
    "  --endpoint URL      the admin listener of a zone, such as https://zone-a.example:9016\n"    \
    "  --token-file FILE   with --endpoint: its admin token (or NEF_ADMIN_TOKEN in the environment)\n" \
    "  --ca FILE           with --endpoint and https: the region's ca.crt\n"

const struct nef_command nef_commands[] = {
    {"up", "make or start a region on this machine", nef_cmd_up,
     "nef up --dir DIR [--port-base 9000] [--cells 4] [--region eu-paris] [--model NAME [--model-file FILE]]\n"
     "  [--detach | --prepare-only]\n"
     "\n"
     "Makes a region in DIR, or starts again what is missing of the one that DIR holds: three etcd\n"
     "members, zones a and b, the witness, and HAProxy as the front. Needs no root. All of it listens on\n"
     "127.0.0.1 only. One machine is one failure domain: this shows how a region behaves, it doesn't\n"
     "protect data; for three hosts see nef help init.\n"
     "\n"
     "  --dir DIR        where everything of the region lives\n"
     "  --port-base N    first port (9000); 41 ports from there: front +0, zone a +10.., zone b +20..,\n"
     "                   witness +33.. ; fixed once the region is made\n"
     "  --cells N        logs that work in parallel (4); fixed once the region is made\n"
     "  --region NAME    its name, which S3 clients call the region (eu-paris)\n"
     "  --model NAME     the only model that the zones' engines serve; without it, those of the region (nef model)\n"
     "  --model-file F   a GGUF file of this machine instead of an object of the region; counts, as --model does, when\n"
     "                   the zones' files are made\n"
     "  --detach         return when the region serves, or say what failed (status 1)\n"
     "  --prepare-only   write the files and start nothing, so that DIR/config/*.yaml can be edited first;\n"
     "                   files that exist are never overwritten\n"
     "\n"
     "Without --detach it shows one live line a zone (role, in sync, rate, lag) until Ctrl-C, which stops\n"
     "the region if this command started it. A supervisor restarts what crashes after 5 s, and leaves\n"
     "alone what nef zone-stop stopped. It may itself be killed: the region goes on, and the next nef up\n"
     "adopts what runs. Repeating nef up is harmless.\n"
     "\n"
     "DIR/region.json tells endpoint, keys, ports and process ids to clients and scripts. DIR/logs has a\n"
     "log for each process. DIR/keys/customer.key is the key that everything is sealed under.\n"
     "\n"
     "  nef up --dir ./run --detach\n"
     "  nef up --dir /tmp/second --port-base 9100\n"},
    {"down", "stop a region on this machine", nef_cmd_down,
     "nef down --dir DIR\n"
     "\n"
     "Stops all processes of the region cleanly and returns when they are gone: the front, zones and\n"
     "witness first, then etcd. What doesn't end within 20 s is killed, which loses nothing: the next\n"
     "start recovers as after a crash. Data stays. Works after kill -9 of the supervisor, too.\n"
     "\n"
     "  nef down --dir ./run\n"},
    {"status", "how the region is", nef_cmd_status,
     "nef status --dir DIR | --endpoint URL [--json]\n"
     "\n"
     "Asks a zone how the region is: epoch, durability (2/2: what is acknowledged is on both zones' disks),\n"
     "for each cell its primary and log ends, for each zone its state, last contact and catch-up, and whether\n"
     "the witness and etcd's members answer. Durability is the region's record; whether the zone that answers serves is\n"
     "said apart, if it doesn't.\n"
     "\n" OF_REGION
     "  --json              the answer as it is:\n"
     "                      {\"epoch\", \"durability\", \"cells\": [{\"id\", \"primary\", \"log_end\": {zone: n}, \"lag\"}],\n"
     "                       \"zones\": [{\"name\", \"state\", \"in_sync\", \"last_contact_ms\",\n"
     "                                  \"catch_up\": {\"bytes_left\", \"eta_s\"}}],\n"
     "                       \"witness\": {\"address\", \"answers\"}, \"etcd\": [{\"endpoint\", \"healthy\"}]}\n"
     "\n"
     "  nef status --dir ./run\n"
     "  nef status --endpoint https://zone-a.example:9016 --token-file admin.token --ca ca.crt --json\n"},
    {"user", "who may use the region", nef_cmd_user,
     "nef user add NAME [--bucket BUCKET] [--read-only] [--json]\n"
     "  [--ai] [--ai-models LIST] [--ai-zones LIST] [--ai-rpm N] [--ai-tpm N] [--ai-concurrency N]\n"
     "  [--ai-weight N] [--ai-priority N]\n"
     "nef user change NAME [--no-ai] [--ai] [--ai-...]\n"
     "nef user list [--json]\n"
     "nef user disable NAME\n"
     "\n"
     "add makes a user and prints its access key and secret key; the secret key is shown this once. With\n"
     "--bucket the user sees only that bucket, with --read-only it changes nothing. disable refuses its\n"
     "requests from now on, in both zones. Users are records of the region's log: both zones know them, and a\n"
     "change counts when it is durable in both.\n"
     "\n"
     "Without AI rights a user may use no model. change gives or changes them, and what isn't named stays. The key of\n"
     "the AI endpoint (OPENAI_API_KEY) is ACCESSKEY:SECRETKEY.\n"
     "\n"
     "  --ai                  all models, computed in all zones; the next two narrow that\n"
     "  --ai-models LIST      these models: names with commas, or '*'\n"
     "  --ai-zones LIST       only these zones compute for the user, also when another one is lost\n"
     "  --ai-rpm, --ai-tpm N  requests and tokens in any minute, over both zones; 0: no limit\n"
     "  --ai-concurrency N    answers at once, over both zones; 0: no limit\n"
     "  --ai-weight N         share of an engine among those that want it, 1 to 1000 (1)\n"
     "  --ai-priority N       0 to 9 (0): the lower ones are refused first when capacity is short\n"
     "  --no-ai               takes all of it away\n"
     "\n" OF_REGION
     "\n"
     "  nef user add backup --bucket backups --dir ./run\n"
     "  nef user add assistant --ai --ai-zones a --ai-rpm 600 --ai-tpm 200000 --dir ./run\n"
     "  nef user list --dir ./run\n"
     "  nef user disable backup --dir ./run\n"},
    {"model", "the models of a region", nef_cmd_model,
     "nef model add NAME FILE | s3://BUCKET/KEY | https://... [--sha256 HEX] [--replace]\n"
     "nef model list [--json]\n"
     "nef model rm NAME\n"
     "\n"
     "Models are objects of the bucket nef-models: replicated and encrypted like any other, and each zone decrypts\n"
     "them into memory for its engine. add takes a GGUF file of a Qwen2, Qwen2.5 or Qwen3 dense model that lies here,\n"
     "in another bucket of the region, or behind an https address; of a split one (-00001-of-0000N.gguf) name the\n"
     "first file: the parts are joined into one. Nothing of it is written to a disk on the way. It exists under its\n"
     "name only when all of it is there and is what its digest says. Interrupted, give the same command again: it\n"
     "goes on where it was. Adding what is there already does nothing.\n"
     "\n"
     "  --sha256 HEX              what the file's digest must be (of a split model one for each, with commas between).\n"
     "                            Without it, that which the server publishes counts: Hugging Face's x-linked-etag, or an\n"
     "                            ETag that is a SHA-256; without either, transport and storage are checked, not the origin\n"
     "  --replace                 put it in the place of another model of that name\n"
     "  --source-ca FILE          CA of an https source (the system's otherwise)\n"
     "  --source-token-file FILE  token of an https source, such as Hugging Face's for models behind a licence; it is given\n"
     "                            to the address itself and not to where that redirects\n"
     "  --part-mib N              size of the parts that are stored (16)\n"
     "\n"
     "list also shows what is incomplete: being added, or interrupted. rm removes that, too.\n"
     "\n"
     "Which region:\n"
     "  --dir DIR           one that nef up made on this machine\n"
     "  --endpoint URL      its S3 front, such as https://s3.example; keys come from AWS_ACCESS_KEY_ID and\n"
     "                      AWS_SECRET_ACCESS_KEY in the environment\n"
     "  --region NAME       with --endpoint: the region's name (or AWS_DEFAULT_REGION)\n"
     "  --ca FILE           with --endpoint and https: the front's CA\n"
     "\n"
     "  nef model add qwen3-0.6b https://huggingface.co/Qwen/Qwen3-0.6B-GGUF/resolve/main/Qwen3-0.6B-Q8_0.gguf --dir ./run\n"
     "  nef model add mine ./mine-00001-of-00003.gguf --dir ./run\n"
     "  nef model list --dir ./run\n"},
    {"zone-stop", "take a zone away, as a fault would", nef_cmd_zone_stop,
     "nef zone-stop --dir DIR ZONE [--kill | --pause]\n"
     "\n"
     "Takes a whole zone of a region on this machine, its process and its etcd member, and keeps it away until\n"
     "nef zone-start or nef down. ZONE is a or b; w takes the witness and its etcd member.\n"
     "\n"
     "  (nothing)   a clean stop: the zone hands over, then ends\n"
     "  --kill      kill -9 of both processes\n"
     "  --pause     SIGSTOP: they are there and say nothing\n"
     "\n"
     "  nef zone-stop --dir ./run a --kill\n"},
    {"zone-start", "bring a zone back", nef_cmd_zone_start,
     "nef zone-start --dir DIR ZONE [--wait]\n"
     "\n"
     "Starts what nef zone-stop stopped, and lets go on what it paused. The zone catches up while clients go on,\n"
     "which nef status shows. Until it is in sync again the other zone is the only one that has everything: with that\n"
     "one gone, too, the region stops until it is back.\n"
     "\n"
     "  --wait   return when the zone is in sync and serves (status 1 after a minute without progress), not at once\n"
     "\n"
     "  nef zone-start --dir ./run a --wait\n"},
    {"zone-recover", "go on with one zone when zone and witness are lost", nef_cmd_zone_recover,
     "nef zone-recover --accept-loss --dir DIR [ZONE] | --endpoint URL\n"
     "\n"
     "With one zone and the witness gone the other zone stops, because it can't know whether it is the one\n"
     "that was cut off. This command is a person's word that the others are gone and stay gone. What only the\n"
     "lost zone had acknowledged is lost. When it returns after all, what it held beyond is put into a file\n"
     "there and listed, not merged. First make sure that the other zone does not run.\n"
     "\n"
     "In a region of nef up it also makes etcd go on with the surviving member alone. On three hosts that is a\n"
     "step of its own before this one, nef etcd-alone: docs/operations.md, \"One zone and the witness are lost\".\n"
     "It returns when the zone has its new epoch. Interrupted, give it again. It is also the word after all etcd\n"
     "members lost their data: the same document.\n"
     "\n" OF_REGION
     "\n"
     "  nef zone-recover --accept-loss --dir ./run b\n"},
    {"etcd-alone", "make an etcd member that lost its majority a cluster of its own", nef_cmd_etcd_alone,
     "nef etcd-alone --data-dir DIR --name NAME --peer-url URL --aside DIR\n"
     "\n"
     "A step of docs/operations.md, \"One zone and the witness are lost\", on the survivor's host and as etcd's\n"
     "user, while its etcd is stopped. What the member holds becomes the beginning of a new cluster with it alone:\n"
     "the others join it anew, with empty directories. In a region of nef up, nef zone-recover does it.\n"
     "\n"
     "  --data-dir DIR   the member's data (ETCD_DATA_DIR)\n"
     "  --name NAME      its name (ETCD_NAME)\n"
     "  --peer-url URL   how other members reach it (ETCD_INITIAL_ADVERTISE_PEER_URLS)\n"
     "  --aside DIR      the name that its former data get, beside --data-dir. Interrupted, repeat the command with\n"
     "                   the same one: it continues or starts over\n"
     "\n"
     "Needs etcd and etcdctl. While it works, DIR.alone holds a copy; it is removed at the end.\n"},
    {"fsck", "check the logs offline", nef_cmd_fsck,
     "nef fsck --dir DIR [--rebuild-index]\n"
     "nef fsck --config FILE [--rebuild-index]\n"
     "\n"
     "Checks what is stopped: with --dir both zones of a region of nef up, every checksum, the zones' logs\n"
     "against each other and the index against the log; with --config (a zone's YAML) the one zone of this\n"
     "host. Nothing is changed, except that --rebuild-index makes the index anew from the log.\n"
     "A problem is something wrong; a note is what the next start puts right by itself, such as a tail that\n"
     "lost an election.\n"
     "\n"
     "Exit status: 0 clean, 1 problems (each is listed), 2 it could not run.\n"
     "\n"
     "  nef down --dir ./run && nef fsck --dir ./run\n"},
    {"init", "write the files of a region on three hosts", nef_cmd_init,
     "nef init --out DIR --zones a=HOST,b=HOST --witness HOST [--region eu-paris] [--cells 4]\n"
     "         [--data-dir /var/lib/nef] [--front-port 443] [--ai-port 8443]\n"
     "\n"
     "Writes one tree of files for each host, to be copied to its root: zone or witness configuration,\n"
     "certificates of a CA made for this region, options for Debian's etcd, and haproxy.cfg for the front on\n"
     "each zone's host. DIR/operator gets what stays with you: the CA's key, the customer's key, the first\n"
     "user and the admin token. It prints the commands that come next; docs/operations.md explains each.\n"
     "\n"
     "  --zones N=HOST,N=HOST   two zones, each on a host of its own; the first is preferred as primary\n"
     "  --witness HOST          a third place: it votes, and never holds customer data, names or keys\n"
     "\n"
     "  nef init --out eu-paris --zones a=zone-a.example,b=zone-b.example --witness witness.example\n"},
    {"zone", "run a zone (what systemd starts)", nef_cmd_zone,
     "nef zone --config FILE\n"
     "\n"
     "Runs one zone until SIGTERM. FILE is YAML as nef init writes it, with every setting explained; an error\n"
     "names file, line and key. Speaks Type=notify to systemd. Exit status: 0 clean, 1 failed, 2 configuration.\n"},
    {"witness", "run the witness (what systemd starts)", nef_cmd_witness,
     "nef witness --config FILE\n"
     "\n"
     "Runs the third place's process until SIGTERM. It keeps etcd's leadership at its own member, so that\n"
     "the loss of a zone costs no election, and tells zones its time. It holds no customer data, name or key.\n"},
    {"supervise", "the process behind nef up", nef_cmd_supervise,
     "nef supervise --dir DIR\n"
     "\n"
     "Started by nef up; there is no need to call it. Starts, adopts and restarts the processes of a region on\n"
     "one machine, keeps DIR/region.json, and takes commands over DIR/supervisor.sock.\n"},
    {"infer", "serve a Qwen model over an OpenAI-compatible API", nef_cmd_infer,
     "nef infer --model FILE.gguf|fd:N [--listen 127.0.0.1:8080|unix:PATH] [--threads N] [--ctx N] [--slots N]\n"
     "          [--kv-type bf16|f32|i8] [--cache-file FILE] [--alias NAME] [--pooling mean|cls|last]\n"
     "          [--drain SECONDS] [--trust-salt]\n"
     "nef infer --bench FILE.gguf [--threads N] [--kv-type bf16|f32|i8] [--cache-file FILE] [--prefill N,...]\n"
     "          [--depth N,...] [--decode N] [--repeat N] [--json]\n"
     "\n"
     "Serves a Qwen2, Qwen2.5 or Qwen3 dense model from a GGUF file until SIGTERM. /v1/chat/completions,\n"
     "/v1/completions, /v1/embeddings, /v1/models, /health, /metrics, /tokenize, /detokenize; tools and JSON\n"
     "Schemas are kept by construction. docs/inference.md has every parameter. The\n"
     "same request gives the same bits alone or among others, on any processor and with any --threads.\n"
     "There is no authentication: it listens on this machine only unless told otherwise.\n"
     "\n"
     "  --model FILE        of split files the first (-00001-of-0000N.gguf); fd:N: an open descriptor\n"
     "  --listen WHERE      127.0.0.1:8080; port 0: the system chooses, and the log says which\n"
     "  --threads N         threads that compute (all cores that the process may use)\n"
     "  --ctx N             tokens of prompt and answer together (the model's trained length, or what half of the\n"
     "                      free memory holds)\n"
     "  --slots N           choices that are computed together (64); up to 1024 more wait, then 429\n"
     "  --kv-type TYPE      of the KV cache: bf16 (default of quantized models), f32 (default of others), or i8 for a\n"
     "                      quarter of the memory of f32. Changes answers' bits\n"
     "  --cache-file FILE   keeps repacked weights there, for a quicker start\n"
     "  --alias NAME        the model's name in the API (the file's name)\n"
     "  --pooling KIND      of embeddings, for a file that doesn't say it: mean, cls or last\n"
     "  --drain SECONDS     how long requests may go on after SIGTERM (30); a second signal ends them\n"
     "  --trust-salt        only behind a gateway: its headers x-nef-cache-salt, x-nef-weight and x-nef-priority say\n"
     "                      whose a request is; one without a salt shares cached prefixes with none\n"
     "  --bench FILE        measures instead: prefill, decode, and their shares of the machine's own limits\n"
     "  --prefill N,...     prompts to measure (512,2048)\n"
     "  --depth N,...       prompts after which decoding is measured (0,2048); of these two only what is given\n"
     "  --decode N          tokens to decode (128)\n"
     "  --repeat N          runs of each; the best counts (3)\n"
     "  --json              an object a line, with every run\n"
     "\n"
     "NEF_KERNELS=scalar|avx2|avx512|amx in the environment forces a set of kernels. Prompts and answers never\n"
     "reach the log. Speaks Type=notify to systemd. Exit status: 0 clean, 1 failed, 2 wrong usage.\n"
     "\n"
     "  nef infer --model Qwen3-0.6B-Q8_0.gguf\n"
     "  curl -s localhost:8080/v1/chat/completions -d '{\"messages\": [{\"role\": \"user\", \"content\": \"Hello\"}]}'\n"
     "  nef infer --bench Qwen3-0.6B-Q8_0.gguf\n"},
    {"chat", "talk with a Qwen model in the terminal", nef_cmd_chat,
     "nef chat --dir DIR | --endpoint URL [--ca FILE] [--model NAME] [--system TEXT] [--no-think] [--temperature T] [--seed N]\n"
     "nef chat --model FILE.gguf [--system TEXT] [--no-think] [--temperature T] [--seed N]\n"
     "         [--threads N] [--ctx N] [--kv-type bf16|f32|i8] [--cache-file FILE]\n"
     "\n"
     "A conversation with a model of a region (the first one, or --model), or with one in this process, which sends\n"
     "nothing anywhere. Nothing is kept. With --endpoint the key, ACCESSKEY:SECRETKEY, is taken from OPENAI_API_KEY; a\n"
     "bare nef infer wants none. Answers stream, with tokens a second at the end. Ctrl-C stops an answer; what was said\n"
     "of it stays in the conversation. A line that ends with \\ goes on in the next. Ctrl-D ends.\n"
     "\n"
     "  /clear             forget the conversation\n"
     "  /system TEXT       instructions to the model; clears the conversation\n"
     "  /think on|off      Qwen3: let it think first\n"
     "  /temperature T     0 to 2; 0: always the likeliest token\n"
     "  /seed N|off        the same choices each time, or not\n"
     "  /stats             tokens so far\n"
     "  /help, /quit\n"
     "\n"
     "  nef chat --dir ./run\n"
     "  nef chat --model Qwen3-0.6B-Q8_0.gguf\n"},
    {"help", "this text, or all about one command", nef_cmd_help,
     "nef help [COMMAND]\n"},
    {NULL, NULL, NULL, NULL},
};
/* clang-format on */

int nef_cmd_help(int argc, char **argv)
{
    const struct nef_command *command;

    if (argc > 1) {
        command = nef_command_find(argv[1]);
        if (command == NULL) {
            (void)fprintf(stderr, "nef help: there is no command '%s'; see: nef help\n", argv[1]);
            return 2;
        }
        printf("nef %s: %s\n\n%s", command->name, command->summary, command->help);
        return 0;
    }
    printf("nef %s: a sovereign region of two zones. S3 from both, either can be lost at any moment.\n\n",
           NEF_VERSION);
    for (command = nef_commands; command->name != NULL; command++)
        printf("  nef %-14s %s\n", command->name, command->summary);
    printf("\nAll about one: nef help COMMAND. Version: nef --version.\n"
           "A region on this machine in one line: nef up --dir ./run --detach\n");
    return 0;
}
