#include "worker/comm/shared_region.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <sstream>

#include "core/base/error.h"
#include "core/base/ids.h"
#include "core/base/status.h"
#include "fmt/format.h"

namespace octavo {

// Tells the region from whatever else a process with the maker's number may have open there.
struct alignas(64) SharedRegion::Header {
  uint64_t magic;
  uint64_t nonce;
};

namespace {

constexpr uint64_t kMagic = 0x6f637461766f0001;

absl::Status Failed(std::string_view what, const std::string& file = {}) {
  return ErrnoError(what, errno, {.file = file});
}

struct flock Chair(int number) {
  struct flock chair = {};
  chair.l_type = F_WRLCK;
  chair.l_whence = SEEK_SET;
  chair.l_start = number;
  chair.l_len = 1;
  return chair;
}

}  // namespace

absl::StatusOr<std::unique_ptr<SharedRegion>> SharedRegion::Create(size_t bytes) {
  const int fd = memfd_create("octavo", MFD_CLOEXEC);
  if (fd < 0) return Failed("cannot make memory to share");
  std::unique_ptr<SharedRegion> region(new SharedRegion(fd, bytes));
  if (ftruncate(fd, static_cast<off_t>(sizeof(Header) + bytes)) != 0) {
    return Failed("cannot make memory to share");
  }
  OCTAVO_RETURN_IF_ERROR(region->Map());
  *region->header() = {.magic = kMagic, .nonce = RandomU64()};
  return region;
}

absl::StatusOr<std::unique_ptr<SharedRegion>> SharedRegion::Open(const std::string& address,
                                                                 size_t bytes) {
  std::istringstream words(address);
  int64_t pid = 0;
  int64_t number = 0;
  uint64_t nonce = 0;
  if (!(words >> pid >> number >> nonce)) {
    return MakeError(Reason::kIo, fmt::format("'{}' is no address of shared memory", address));
  }
  // A path whose file may be anybody's until the header was compared: nothing that blocks.
  const std::string path = fmt::format("/proc/{}/fd/{}", pid, number);
  const int fd = open(path.c_str(), O_RDWR | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
  if (fd < 0) return Failed("cannot open shared memory", path);
  std::unique_ptr<SharedRegion> region(new SharedRegion(fd, bytes));
  struct stat facts = {};
  if (fstat(fd, &facts) != 0) return Failed("cannot open shared memory", path);
  const auto size = static_cast<off_t>(sizeof(Header) + bytes);
  if (!S_ISREG(facts.st_mode) || facts.st_size != size) {
    return MakeError(Reason::kIo, "this is no shared memory of the group", {.file = path});
  }
  OCTAVO_RETURN_IF_ERROR(region->Map());
  if (region->header()->magic != kMagic || region->header()->nonce != nonce) {
    return MakeError(Reason::kIo, "this is no shared memory of the group", {.file = path});
  }
  return region;
}

absl::Status SharedRegion::Map() {
  void* memory = mmap(nullptr, sizeof(Header) + bytes_, PROT_READ | PROT_WRITE, MAP_SHARED, fd_, 0);
  if (memory == MAP_FAILED) return Failed("cannot map shared memory");
  memory_ = memory;
  return absl::OkStatus();
}

SharedRegion::~SharedRegion() {
  if (memory_ != nullptr) munmap(memory_, sizeof(Header) + bytes_);
  close(fd_);
}

std::string SharedRegion::address() const {
  return fmt::format("{} {} {}", getpid(), fd_, header()->nonce);
}

std::byte* SharedRegion::data() const { return static_cast<std::byte*>(memory_) + sizeof(Header); }

absl::Status SharedRegion::Hold(int number) {
  struct flock chair = Chair(number);
  if (fcntl(fd_, F_OFD_SETLK, &chair) != 0) return Failed("cannot lock shared memory");
  return absl::OkStatus();
}

bool SharedRegion::IsHeld(int number) const {
  struct flock chair = Chair(number);
  return fcntl(fd_, F_OFD_GETLK, &chair) == 0 && chair.l_type != F_UNLCK;
}

}  // namespace octavo
