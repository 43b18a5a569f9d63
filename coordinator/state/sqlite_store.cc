#include "coordinator/state/sqlite_store.h"

#include <fcntl.h>
#include <sqlite3.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>

#include "core/base/error.h"
#include "core/base/mutex.h"
#include "core/base/status.h"
#include "fmt/format.h"

namespace octavo {
namespace {

constexpr int kFormat = 1;  // PRAGMA user_version

absl::Status SqlError(sqlite3* db, int code, const std::string& path) {
  Reason reason = Reason::kIo;
  std::string_view cure;
  switch (code & 0xff) {
    case SQLITE_FULL:
      reason = Reason::kDiskFull;
      cure = "Free space and run the same command again; it resumes";
      break;
    case SQLITE_NOTADB:
    case SQLITE_CORRUPT:
      reason = Reason::kCorrupted;
      cure = "Remove the state folder to start over";
      break;
    case SQLITE_READONLY:
    case SQLITE_PERM:
    case SQLITE_CANTOPEN:
      reason = Reason::kOutputUnwritable;
      cure = "Check owner and permissions";
      break;
    default:
      break;
  }
  return MakeError(reason, fmt::format("journal: {}", db != nullptr ? sqlite3_errmsg(db) : "open"),
                   {.file = path}, cure);
}

// One prepared statement, reset after each use.
class Statement {
 public:
  Statement(sqlite3* db, const char* sql) {
    sqlite3_prepare_v3(db, sql, -1, SQLITE_PREPARE_PERSISTENT, &handle_, nullptr);
  }
  ~Statement() { sqlite3_finalize(handle_); }
  Statement(const Statement&) = delete;
  Statement& operator=(const Statement&) = delete;

  void Bind(int index, const std::string& blob) {
    sqlite3_bind_blob64(handle_, index, blob.data(), blob.size(), SQLITE_STATIC);
  }
  int Step() { return sqlite3_step(handle_); }
  void Reset() {
    sqlite3_reset(handle_);
    sqlite3_clear_bindings(handle_);
  }
  std::string Column(int index) const {
    const void* data = sqlite3_column_blob(handle_, index);
    const int size = sqlite3_column_bytes(handle_, index);
    return size == 0 ? std::string() : std::string(static_cast<const char*>(data), size);
  }

 private:
  sqlite3_stmt* handle_ = nullptr;
};

// The smallest string greater than every string that starts with `prefix`.
std::string PrefixEnd(std::string prefix) {
  while (!prefix.empty() && static_cast<unsigned char>(prefix.back()) == 0xff) prefix.pop_back();
  if (!prefix.empty()) prefix.back() = static_cast<char>(prefix.back() + 1);
  return prefix;
}

// An exclusively locked descriptor of the file that has this name. The last user of a folder
// removes it with its lock, so a lock may be taken on a file that is no longer there: then again.
absl::StatusOr<int> LockFolder(const std::string& path) {
  for (int attempt = 0; attempt < 10; ++attempt) {
    const int fd = open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
    if (fd < 0) return ErrnoError("cannot open the lock", errno, {.file = path});
    const int error = flock(fd, LOCK_EX | LOCK_NB) == 0 ? 0 : errno;
    struct stat held {};
    struct stat named {};
    const bool same = fstat(fd, &held) == 0 && stat(path.c_str(), &named) == 0 &&
                      held.st_dev == named.st_dev && held.st_ino == named.st_ino;
    if (error == 0 && same) return fd;
    close(fd);
    if (error == 0) continue;
    if (error != EWOULDBLOCK) return ErrnoError("cannot lock", error, {.file = path});
    break;
  }
  return MakeError(Reason::kBusy, "another run of the same job is going on", {.file = path},
                   "Wait for it, or stop it first");
}

}  // namespace

struct SqliteStore::State {
  ~State() {
    put.reset();
    erase.reset();
    get.reset();
    scan.reset();
    sqlite3_close(db);
    if (lock_fd >= 0) close(lock_fd);  // after the database: the lock covers its closing
  }
  absl::Status Run(const char* sql) {
    const int code = sqlite3_exec(db, sql, nullptr, nullptr, nullptr);
    return code == SQLITE_OK ? absl::OkStatus() : SqlError(db, code, path);
  }

  std::string path;
  int lock_fd = -1;
  sqlite3* db = nullptr;
  Mutex mutex;
  std::unique_ptr<Statement> put OCTAVO_GUARDED_BY(mutex);
  std::unique_ptr<Statement> erase OCTAVO_GUARDED_BY(mutex);
  std::unique_ptr<Statement> get OCTAVO_GUARDED_BY(mutex);
  std::unique_ptr<Statement> scan OCTAVO_GUARDED_BY(mutex);
};

SqliteStore::SqliteStore() : state_(std::make_unique<State>()) {}
SqliteStore::~SqliteStore() = default;

absl::StatusOr<std::unique_ptr<SqliteStore>> SqliteStore::Open(const std::string& dir) {
  std::error_code error;
  std::filesystem::create_directories(dir, error);
  if (error) return ErrnoError("cannot make the state folder", error.value(), {.file = dir});

  std::unique_ptr<SqliteStore> store(new SqliteStore());
  State& state = *store->state_;
  OCTAVO_ASSIGN_OR_RETURN(state.lock_fd, LockFolder(dir + "/lock"));
  state.path = dir + "/journal.db";
  const int code =
      sqlite3_open_v2(state.path.c_str(), &state.db,
                      SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_FULLMUTEX, nullptr);
  if (code != SQLITE_OK) return SqlError(state.db, code, state.path);
  sqlite3_busy_timeout(state.db, 5'000);
  // One process, one connection: the log's index need not be shared, so no -shm file is mapped and
  // network file systems work too. The cache is 4 MiB.
  OCTAVO_RETURN_IF_ERROR(
      state.Run("PRAGMA locking_mode=EXCLUSIVE; PRAGMA journal_mode=WAL;"
                "PRAGMA synchronous=FULL; PRAGMA cache_size=-4096;"));
  OCTAVO_RETURN_IF_ERROR(
      state.Run("CREATE TABLE IF NOT EXISTS entries (key BLOB PRIMARY KEY, value BLOB NOT NULL) "
                "WITHOUT ROWID"));
  OCTAVO_RETURN_IF_ERROR(state.Run(fmt::format("PRAGMA user_version={}", kFormat).c_str()));
  MutexLock lock(state.mutex);
  state.put = std::make_unique<Statement>(state.db, "INSERT OR REPLACE INTO entries VALUES (?, ?)");
  state.erase = std::make_unique<Statement>(state.db, "DELETE FROM entries WHERE key = ?");
  state.get = std::make_unique<Statement>(state.db, "SELECT value FROM entries WHERE key = ?");
  state.scan = std::make_unique<Statement>(
      state.db, "SELECT key, value FROM entries WHERE key >= ? AND key < ? ORDER BY key");
  return store;
}

absl::Status SqliteStore::Apply(std::span<const Write> writes) {
  if (writes.empty()) return absl::OkStatus();
  MutexLock lock(state_->mutex);
  OCTAVO_RETURN_IF_ERROR(state_->Run("BEGIN IMMEDIATE"));
  for (const Write& write : writes) {
    Statement& statement = write.value ? *state_->put : *state_->erase;
    statement.Bind(1, write.key);
    if (write.value) statement.Bind(2, *write.value);
    const int code = statement.Step();
    statement.Reset();
    if (code != SQLITE_DONE) {
      const absl::Status status = SqlError(state_->db, code, state_->path);
      state_->Run("ROLLBACK").IgnoreError();  // fails where the error already rolled back
      return status;
    }
  }
  const absl::Status status = state_->Run("COMMIT");
  if (!status.ok()) state_->Run("ROLLBACK").IgnoreError();
  return status;
}

absl::StatusOr<std::optional<std::string>> SqliteStore::Get(const std::string& key) {
  MutexLock lock(state_->mutex);
  state_->get->Bind(1, key);
  const int code = state_->get->Step();
  std::optional<std::string> value;
  if (code == SQLITE_ROW) value = state_->get->Column(0);
  state_->get->Reset();
  if (code != SQLITE_ROW && code != SQLITE_DONE) return SqlError(state_->db, code, state_->path);
  return value;
}

absl::StatusOr<std::vector<StateStore::Entry>> SqliteStore::Scan(const std::string& prefix) {
  MutexLock lock(state_->mutex);
  const std::string end = PrefixEnd(prefix);
  state_->scan->Bind(1, prefix);
  state_->scan->Bind(2, end);
  std::vector<Entry> entries;
  int code = SQLITE_DONE;
  while ((code = state_->scan->Step()) == SQLITE_ROW) {
    entries.push_back({state_->scan->Column(0), state_->scan->Column(1)});
  }
  state_->scan->Reset();
  if (code != SQLITE_DONE) return SqlError(state_->db, code, state_->path);
  return entries;
}

}  // namespace octavo
