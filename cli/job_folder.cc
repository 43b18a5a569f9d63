#include "cli/job_folder.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>
#include <utility>

#include "core/base/error.h"
#include "core/base/status.h"
#include "fmt/format.h"

namespace octavo {
namespace {

namespace fs = std::filesystem;
using std::chrono::milliseconds;

constexpr milliseconds kBusyPatience{15'000};

// True if the locked descriptor is still what the name says (the last owner may just have removed
// the folder).
bool SameFile(int fd, const std::string& path) {
  struct stat by_fd = {}, by_path = {};
  return fstat(fd, &by_fd) == 0 && stat(path.c_str(), &by_path) == 0 &&
         by_fd.st_ino == by_path.st_ino && by_fd.st_dev == by_path.st_dev;
}

}  // namespace

absl::StatusOr<std::unique_ptr<JobFolder>> JobFolder::Open(const std::string& output_dir) {
  const std::string dir = output_dir + ".octavo";
  const std::string path = dir + "/command.lock";
  for (int attempt = 0; attempt < 100; ++attempt) {
    if (mkdir(dir.c_str(), 0777) != 0 && errno != EEXIST) {
      return ErrnoError("cannot make the folder for journal and staging", errno, {.file = dir});
    }
    OwnedFd lock(open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0666));
    if (lock.get() < 0) {
      if (errno == ENOENT) continue;
      return ErrnoError("cannot open the lock", errno, {.file = path});
    }
    if (flock(lock.get(), LOCK_EX | LOCK_NB) != 0) {
      return MakeError(Reason::kBusy, "another octavo command is working on this output",
                       {.file = output_dir}, "Wait for it, or stop it");
    }
    if (SameFile(lock.get(), path)) {
      return std::unique_ptr<JobFolder>(new JobFolder(dir, std::move(lock)));
    }
  }
  return MakeError(Reason::kBusy, "the folder for journal and staging keeps vanishing",
                   {.file = dir});
}

absl::StatusOr<std::unique_ptr<Session>> JobFolder::StartCluster(const Context& context,
                                                                 const ClusterFlags& flags,
                                                                 const StopSignal& stop) {
  const auto end = std::chrono::steady_clock::now() + kBusyPatience;
  while (true) {
    auto session = Session::Local(context, flags, dir_);
    if (session.ok() || ReasonOf(session.status()) != Reason::kBusy ||
        std::chrono::steady_clock::now() >= end) {
      return session;
    }
    if (stop.WaitFor(milliseconds(100))) return MakeError(Reason::kCancelled, "interrupted");
  }
}

JobFolder::~JobFolder() {
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(dir_, error)) {
    if (entry.is_directory(error)) return;
  }
  // The lock last: whoever comes meanwhile finds it held, or gone with the folder.
  for (const auto& entry : fs::directory_iterator(dir_, error)) {
    if (entry.path().filename() != "command.lock") fs::remove(entry.path(), error);
  }
  fs::remove(dir_ + "/command.lock", error);
  rmdir(dir_.c_str());
}

}  // namespace octavo
