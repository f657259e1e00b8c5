/* grammar_bench VOCAB.gguf: what masks cost over a whole vocabulary. For each of some schemas a text is generated
 * (the tokens chosen at random among the allowed ones, with a preference for the sample text's tokenization), once
 * with nothing kept and once more; printed are the mean and the worst microseconds of a mask in both. Built by the
 * tests, not run by them. */
#include <fcntl.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>
#include "base/assert.h"
#include "infer/gguf/gguf.h"
#include "infer/grammar/grammar.h"

static double now_us(void)
{
    struct timespec t;

    (void)clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t); /* other processes don't count */
    return (double)t.tv_sec * 1e6 + (double)t.tv_nsec / 1e3;
}

static const struct {
    const char *name, *schema, *text;
} cases[] = {
    {"object of strings",
     "{\"type\":\"object\",\"properties\":{\"name\":{\"type\":\"string\"},\"bio\":{\"type\":\"string\"},\"age\":"
     "{\"type\":\"integer\"}},\"required\":[\"name\",\"bio\",\"age\"],\"additionalProperties\":false}",
     "{\"name\": \"Ada Lovelace\", \"bio\": \"She wrote the first program, long before there was a machine \\\"to "
     "run\\\" "
     "it. \\u00e9t\\u00e9, \xe6\x97\xa5\xe6\x9c\xac\xe8\xaa\x9e and \xf0\x9f\x98\x80.\", \"age\": 36}"},
    {"bounded strings",
     "{\"type\":\"object\",\"properties\":{\"a\":{\"type\":\"string\",\"maxLength\":100},\"b\":{\"type\":\"string\","
     "\"minLength\":3,\"maxLength\":40}},\"required\":[\"a\",\"b\"],\"additionalProperties\":false}",
     "{\"a\": \"A text that is not longer than a hundred characters, which is not very much.\", \"b\": \"short\"}"},
    {"any object", "{\"type\":\"object\"}",
     "{\"a\": [1, 2.5, {\"b\": null, \"c\": [true, false, \"x\"]}], \"key with spaces\": {\"deep\": [[[[\"end\"]]]]}}"},
    {"recursive",
     "{\"$ref\":\"#/$defs/node\",\"$defs\":{\"node\":{\"type\":\"object\",\"properties\":{\"value\":{\"type\":"
     "\"number\"},\"left\":{\"anyOf\":[{\"$ref\":\"#/$defs/"
     "node\"},{\"type\":\"null\"}]},\"right\":{\"anyOf\":[{\"$ref\":"
     "\"#/$defs/node\"},{\"type\":\"null\"}]}},\"required\":[\"value\",\"left\",\"right\"],\"additionalProperties\":"
     "false}}}",
     "{\"value\": 1.5, \"left\": {\"value\": -2, \"left\": null, \"right\": {\"value\": 1e10, \"left\": null, "
     "\"right\": "
     "null}}, \"right\": null}"},
    {"pattern of words",
     "{\"type\":\"object\",\"properties\":{\"p\":{\"type\":\"string\",\"pattern\":\"^[A-Za-z ,.]{1,80}$\"}},"
     "\"required\":[\"p\"],\"additionalProperties\":false}",
     "{\"p\": \"A sentence of plain words, whose length is counted by the pattern.\"}"},
    {"pattern .*",
     "{\"type\":\"object\",\"properties\":{\"p\":{\"type\":\"string\",\"pattern\":\"ab*c\"}},\"required\":[\"p\"],"
     "\"additionalProperties\":false}",
     "{\"p\": \"Anything before abbbc and anything after it.\"}"},
    {"formats",
     "{\"type\":\"object\",\"properties\":{\"t\":{\"type\":\"string\",\"format\":\"date-time\"},\"u\":{\"type\":"
     "\"string\","
     "\"format\":\"uuid\"},\"m\":{\"type\":\"string\",\"format\":\"email\"},\"n\":{\"type\":\"number\",\"minimum\":-1."
     "5,"
     "\"maximum\":2.75}},\"required\":[\"t\",\"u\",\"m\",\"n\"],\"additionalProperties\":false}",
     "{\"t\": \"2024-02-29T12:34:56Z\", \"u\": \"123e4567-e89b-12d3-a456-426614174000\", \"m\": \"ada@example.org\", "
     "\"n\": 1.25}"},
};
static const char tools[] =
    "[{\"type\":\"function\",\"function\":{\"name\":\"get_weather\",\"parameters\":{\"type\":\"object\",\"properties\":"
    "{\"city\":{\"type\":\"string\"},\"unit\":{\"enum\":[\"celsius\",\"fahrenheit\"]}},\"required\":[\"city\"]}}},"
    "{\"type\":\"function\",\"function\":{\"name\":\"search\",\"parameters\":{\"type\":\"object\",\"properties\":{"
    "\"query\":{\"type\":\"string\"},\"limit\":{\"type\":\"integer\",\"minimum\":1,\"maximum\":100}},\"required\":["
    "\"query\"]}}}]";
static const char tools_text[] = "I look at the weather first.\n<tool_call>\n{\"name\": \"get_weather\", "
                                 "\"arguments\": {\"city\": \"Paris <3\", \"unit\": "
                                 "\"celsius\"}}\n</tool_call>\n<tool_call>\n{\"name\": \"search\", \"arguments\": "
                                 "{\"query\": \"x\", \"limit\": 10}}\n"
                                 "</tool_call>";

static void measure(const struct nef_tokenizer *t, struct nef_grammar *g, const char *name, const char *text,
                    double compile_us, uint32_t words)
{
    uint32_t *mask = malloc(words * sizeof(*mask)), *tokens, count;
    double mean[2] = {0}, worst[2] = {0};

    NEF_ASSERT(mask != NULL && nef_tokenize(t, text, strlen(text), false, &tokens, &count) == NEF_OK);
    for (int round = 0; round < 2; round++) {
        struct nef_matcher *m;

        NEF_ASSERT(nef_matcher_open(g, &m) == NEF_OK);
        for (uint32_t i = 0; i < count; i++) {
            double begin = now_us(), spent;

            NEF_ASSERT(nef_matcher_mask(m, mask) == NEF_OK);
            spent = now_us() - begin;
            mean[round] += spent / count;
            worst[round] = NEF_MAX(worst[round], spent);
            if ((mask[tokens[i] / 32] >> tokens[i] % 32 & 1) == 0 || nef_matcher_accept(m, tokens[i]) != NEF_OK) {
                printf("%s: token %u (%u of %u) is not allowed\n", name, tokens[i], i, count);
                break;
            }
        }
        if (!nef_matcher_can_end(m))
            printf("%s: not at its end\n", name);
        nef_matcher_close(m);
    }
    printf("%-20s %4u tokens  compile %7.0f us  first: mean %6.1f worst %7.1f us  again: mean %5.1f worst %6.1f us  "
           "%zu KB\n",
           name, count, compile_us, mean[0], worst[0], mean[1], worst[1], nef_grammar_bytes(g) / 1024);
    free(tokens);
    free(mask);
}

static void run(const struct nef_tokenizer *t, struct nef_grammar_vocab *v, const struct nef_grammar_options *o,
                const char *name, const char *text)
{
    char why[NEF_GRAMMAR_ERROR_MAX] = "";
    struct nef_grammar *g = NULL;
    double begin = now_us();

    if (nef_grammar_compile(v, o, why, &g) != NEF_OK) {
        printf("%s: %s\n", name, why);
        return;
    }
    measure(t, g, name, text, now_us() - begin, nef_grammar_vocab_words(v));
    nef_grammar_unref(g);
}

int main(int argc, char **argv)
{
    struct nef_tokenizer *t;
    struct nef_grammar_vocab *v;
    struct nef_gguf *file;
    struct nef_grammar_options o = {.parallel = true};
    char why[NEF_GGUF_ERROR_MAX];
    struct stat st;
    double begin;
    void *map;
    int fd = argc == 2 ? open(argv[1], O_RDONLY | O_CLOEXEC) : -1;

    if (fd < 0 || fstat(fd, &st) != 0) {
        fprintf(stderr, "usage: grammar_bench VOCAB.gguf\n");
        return 2;
    }
    map = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
    NEF_ASSERT(map != MAP_FAILED);
    if (nef_gguf_parse(map, (size_t)st.st_size, why, &file) != NEF_OK || nef_tokenizer_open(file, why, &t) != NEF_OK) {
        fprintf(stderr, "%s: %s\n", argv[1], why);
        return 1;
    }
    begin = now_us();
    NEF_ASSERT(nef_grammar_vocab_open(t, &v) == NEF_OK);
    printf("vocabulary of %u tokens: %.0f ms\n", nef_tokenizer_vocab(t), (now_us() - begin) / 1e3);
    for (size_t i = 0; i < NEF_COUNT(cases); i++) {
        json_t *schema = json_loads(cases[i].schema, 0, NULL);

        NEF_ASSERT(schema != NULL);
        o.answer = NEF_GRAMMAR_SCHEMA;
        o.schema = schema;
        run(t, v, &o, cases[i].name, cases[i].text);
        json_decref(schema);
    }
    o = (struct nef_grammar_options){.parallel = true, .tools = json_loads(tools, 0, NULL)};
    run(t, v, &o, "tools, auto", tools_text);
    json_decref((json_t *)o.tools);
    nef_grammar_vocab_close(v);
    nef_tokenizer_close(t);
    nef_gguf_free(file);
    (void)close(fd); /* only read */
    return 0;
}
