/* Encryption of the index at rest: the only C++ of the program.
 *
 * RocksDB's EncryptedEnv asks a provider for a prefix of each file that it makes and for a cipher of
 * each file that it opens. Ours is AES-256-CTR under the zone's index key:
 *
 *      0   4  magic "NefI"
 *      4   4  version (1), little-endian
 *      8  16  IV, random for each file
 *     24  16  check: first half of HMAC-SHA-256(index key, "nef index file" | IV)
 *     40      zeros up to 4,096, where RocksDB's own bytes begin
 *
 * A byte at file offset n is xored with byte n of the keystream that begins at counter IV. The check
 * makes a wrong key a named error and not a guess about garbage. IVs are random in 128 bits and a file
 * has fewer than 2^32 blocks, so no two files share keystream; RocksDB never rewrites bytes in place
 * (direct I/O and log recycling, which would, are off).
 *
 * What this does not do: authenticate. RocksDB's checksums find rot, not malice; whoever can alter the
 * index can break this zone's answers but reads nothing, and `nef fsck` compares it with the log.
 *
 * Two more things that the C API lacks: one write-buffer budget for several databases, and a logger that
 * drops everything (EncryptedEnv hands NewLogger to the plain environment, and RocksDB's LOG holds key
 * ranges). To set these three in a rocksdb_options_t we rely on librocksdb's definition of it, a struct
 * whose only member is rocksdb::Options; options_of() proves that at run time before it is used.
 *
 * No exception may leave this file: RocksDB and our C code know none. */
#include "index/index_internal.h"

#include <cstring>
#include <memory>
#include <new>
#include <string>

#include "rocksdb/env.h"
#include "rocksdb/env_encryption.h"
#include "rocksdb/options.h"
#include "rocksdb/version.h"
#include "rocksdb/write_buffer_manager.h"

extern "C" {
#include "crypto/crypto.h"
}

static_assert(ROCKSDB_MAJOR == 7, "check rocksdb_options_t and EncryptionProvider of this version");

namespace {

constexpr size_t kPrefixBytes = NEF_INDEX_PREFIX_BYTES;
constexpr size_t kIvAt = 8, kIvBytes = 16;
constexpr size_t kCheckAt = 24, kCheckBytes = 16;
constexpr size_t kUsedBytes = 40;
constexpr char kMagic[8] = {'N', 'e', 'f', 'I', 1, 0, 0, 0};
constexpr char kCheckLabel[] = "nef index file";

void check_of(const uint8_t *key, const char *iv, uint8_t out[kCheckBytes])
{
    uint8_t message[sizeof(kCheckLabel) - 1 + kIvBytes];
    uint8_t mac[32];

    memcpy(message, kCheckLabel, sizeof(kCheckLabel) - 1);
    memcpy(message + sizeof(kCheckLabel) - 1, iv, kIvBytes);
    nef_hmac_sha256(key, NEF_KEY_BYTES, message, sizeof(message), mac);
    memcpy(out, mac, kCheckBytes);
}

class CtrStream final : public rocksdb::BlockAccessCipherStream
{
  public:
    CtrStream(const uint8_t *key, const char *iv) : key_(key) { memcpy(iv_, iv, kIvBytes); }

    size_t BlockSize() override { return 16; }

    rocksdb::Status Encrypt(uint64_t offset, char *data, size_t bytes) override
    {
        if (nef_ctr_xor(key_, iv_, offset, data, bytes, data) != NEF_OK)
            return rocksdb::Status::IOError("index cipher");
        return rocksdb::Status::OK();
    }
    rocksdb::Status Decrypt(uint64_t offset, char *data, size_t bytes) override
    {
        return Encrypt(offset, data, bytes);
    }

  protected:
    /* only the base's Encrypt and Decrypt, which are overridden, would call these */
    void AllocateScratch(std::string &) override {}
    rocksdb::Status EncryptBlock(uint64_t, char *, char *) override
    {
        return rocksdb::Status::NotSupported();
    }
    rocksdb::Status DecryptBlock(uint64_t, char *, char *) override
    {
        return rocksdb::Status::NotSupported();
    }

  private:
    const uint8_t *key_;
    uint8_t iv_[kIvBytes];
};

class Provider final : public rocksdb::EncryptionProvider
{
  public:
    explicit Provider(const uint8_t *key) : key_(key) {}

    const char *Name() const override { return "NefAes256Ctr"; }
    size_t GetPrefixLength() const override { return kPrefixBytes; }

    rocksdb::Status CreateNewPrefix(const std::string &, char *prefix, size_t bytes) const override
    {
        if (bytes < kUsedBytes)
            return rocksdb::Status::InvalidArgument("index file prefix");
        memset(prefix, 0, bytes);
        memcpy(prefix, kMagic, sizeof(kMagic));
        nef_random(prefix + kIvAt, kIvBytes);
        check_of(key_, prefix + kIvAt, reinterpret_cast<uint8_t *>(prefix + kCheckAt));
        return rocksdb::Status::OK();
    }

    rocksdb::Status AddCipher(const std::string &, const char *, size_t, bool) override
    {
        return rocksdb::Status::NotSupported();
    }

    rocksdb::Status
    CreateCipherStream(const std::string &, const rocksdb::EnvOptions &, rocksdb::Slice &prefix,
                       std::unique_ptr<rocksdb::BlockAccessCipherStream> *result) override
    {
        uint8_t check[kCheckBytes];

        /* a file that a crash left without its prefix is as corrupt as one of another key */
        if (prefix.size() < kUsedBytes || memcmp(prefix.data(), kMagic, sizeof(kMagic)) != 0)
            return rocksdb::Status::Corruption("index file prefix");
        check_of(key_, prefix.data() + kIvAt, check);
        if (!nef_equal_ct(check, prefix.data() + kCheckAt, kCheckBytes))
            return rocksdb::Status::Corruption("index file of another key");
        result->reset(new (std::nothrow) CtrStream(key_, prefix.data() + kIvAt));
        return *result != nullptr ? rocksdb::Status::OK() : rocksdb::Status::MemoryLimit();
    }

  private:
    const uint8_t *key_;
};

class NoLogger final : public rocksdb::Logger
{
  public:
    NoLogger() : rocksdb::Logger(rocksdb::InfoLogLevel::FATAL_LEVEL) {}
    using rocksdb::Logger::Logv;
    void Logv(const char *, va_list) override {}
    void Logv(const rocksdb::InfoLogLevel, const char *, va_list) override {}
    void LogHeader(const char *, va_list) override {}
};

/* The Options inside: NULL unless a value set through the C API is read back through the cast, in fields
 * at both ends of the struct. */
rocksdb::Options *options_of(rocksdb_options_t *options)
{
    rocksdb::Options *o = reinterpret_cast<rocksdb::Options *>(options);
    size_t db_bytes = rocksdb_options_get_db_write_buffer_size(options);
    size_t cf_bytes = rocksdb_options_get_write_buffer_size(options);
    bool same;

    rocksdb_options_set_db_write_buffer_size(options, 0x5a17e5);
    rocksdb_options_set_write_buffer_size(options, 0x7ab1e5);
    same = o->db_write_buffer_size == 0x5a17e5 && o->write_buffer_size == 0x7ab1e5;
    rocksdb_options_set_db_write_buffer_size(options, db_bytes);
    rocksdb_options_set_write_buffer_size(options, cf_bytes);
    same = same && o->env == rocksdb::Env::Default() && o->info_log == nullptr &&
           o->write_buffer_manager == nullptr;
    return same ? o : nullptr;
}

} // namespace

struct nef_index_env {
    std::unique_ptr<rocksdb::Env> env;
};

struct nef_index_budget {
    std::shared_ptr<rocksdb::WriteBufferManager> manager;
};

struct nef_index_env *nef_index_env_new(const uint8_t *key)
{
    try {
        auto provider = std::make_shared<Provider>(key);
        auto env = std::make_unique<nef_index_env>();

        env->env.reset(rocksdb::NewEncryptedEnv(rocksdb::Env::Default(), provider));
        return env->env != nullptr ? env.release() : nullptr;
    } catch (...) {
        return nullptr;
    }
}

void nef_index_env_free(struct nef_index_env *env)
{
    delete env;
}

struct nef_index_budget *nef_index_budget_new(size_t bytes)
{
    try {
        auto budget = std::make_unique<nef_index_budget>();

        budget->manager = std::make_shared<rocksdb::WriteBufferManager>(bytes);
        return budget.release();
    } catch (...) {
        return nullptr;
    }
}

void nef_index_budget_free(struct nef_index_budget *budget)
{
    delete budget;
}

bool nef_index_options_attach(rocksdb_options_t *options, struct nef_index_env *env,
                              struct nef_index_budget *budget)
{
    try {
        rocksdb::Options *o = options_of(options);

        if (o == nullptr)
            return false;
        o->env = env->env.get();
        o->write_buffer_manager = budget->manager;
        o->info_log = std::make_shared<NoLogger>();
        return true;
    } catch (...) {
        return false;
    }
}
