#include "worker/device/probe.h"

#include <fcntl.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <functional>
#include <thread>
#include <vector>

#include "core/base/checksum.h"
#include "core/base/clock.h"
#include "core/base/error.h"
#include "core/base/ids.h"
#include "core/base/status.h"
#include "core/tensor/bare/amax.h"
#include "core/tensor/bare/fp_env.h"
#include "fmt/format.h"
#include "kernels/probe.h"
#include "kernels/quantize.h"

namespace octavo {
namespace {

constexpr size_t kChunk = 8 << 20;              // of one read or write, as a unit's
constexpr size_t kMemoryPerThread = 256 << 20;  // well beyond a core's caches
constexpr size_t kCastColumns = 4096;
constexpr uint64_t kFileStep = 64 << 20;  // written between syncs: about what a batch of units is

double Now() { return Seconds(Clock::System().Now()); }

int UsableProcessors() {
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof(set), &set) == 0) return std::max(1, CPU_COUNT(&set));
  return static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
}

// Anonymous memory that is really there. Huge pages where the system gives them.
class Memory {
 public:
  static absl::StatusOr<Memory> Allocate(size_t bytes) {
    void* at = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (at == MAP_FAILED) {
      return MakeError(Reason::kOutOfMemory,
                       fmt::format("the probe needs {} MiB of memory", bytes >> 20), {},
                       "Use fewer threads");
    }
    madvise(at, bytes, MADV_HUGEPAGE);
    return Memory(static_cast<char*>(at), bytes);
  }
  Memory(Memory&& other) noexcept : at_(other.at_), bytes_(other.bytes_) { other.at_ = nullptr; }
  Memory& operator=(Memory&&) = delete;
  ~Memory() {
    if (at_ != nullptr) munmap(at_, bytes_);
  }
  char* at() const { return at_; }
  size_t size() const { return bytes_; }

 private:
  Memory(char* at, size_t bytes) : at_(at), bytes_(bytes) {}
  char* at_;
  size_t bytes_;
};

// BF16 values of both signs between 2^-8 and 2^-1, not compressible.
void FillBf16(char* at, size_t bytes, uint64_t seed) {
  uint64_t state = seed * 0x9e3779b97f4a7c15u + 1;
  for (size_t i = 0; i + 8 <= bytes; i += 8) {
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    const uint64_t word = (state & 0x83ff83ff83ff83ffu) | 0x3c003c003c003c00u;
    std::memcpy(at + i, &word, sizeof(word));
  }
}

class File {
 public:
  static absl::StatusOr<File> CreateUnlinked(const std::string& dir) {
    const std::string path = dir + "/.octavo-probe-" + RandomHex(8);
    const int fd = open(path.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (fd < 0) return ErrnoError("cannot create the probe file", errno, {.file = path});
    unlink(path.c_str());
    return File(fd);
  }
  File(File&& other) noexcept : fd_(other.fd_) { other.fd_ = -1; }
  File& operator=(File&&) = delete;
  ~File() {
    if (fd_ >= 0) close(fd_);
  }
  int fd() const { return fd_; }

 private:
  explicit File(int fd) : fd_(fd) {}
  int fd_;
};

// Runs body(thread) on `threads` threads at once; each returns its units per second (or -1 after an
// error, which is then in errno of that thread and kept in `error`). The sum over threads.
double SumOfRates(int threads, std::atomic<int>* error, const std::function<double(int)>& body) {
  std::vector<double> rates(static_cast<size_t>(threads));
  std::atomic<int> waiting{threads};
  const auto run = [&](int thread) {
    FpEnv env;
    waiting.fetch_sub(1);
    while (waiting.load() > 0) std::this_thread::yield();
    const double rate = body(thread);
    if (rate < 0) error->store(errno);
    rates[static_cast<size_t>(thread)] = rate;
  };
  std::vector<std::jthread> running;
  for (int thread = 1; thread < threads; ++thread) running.emplace_back(run, thread);
  run(0);
  running.clear();
  double sum = 0;
  for (const double rate : rates) sum += rate;
  return sum;
}

// Repeats body() (which returns its units) for about `seconds`; units per second.
template <typename Body>
double Repeat(double seconds, Body body) {
  const double begin = Now();
  double units = 0;
  double elapsed = 0;
  do {
    units += body();
    elapsed = Now() - begin;
  } while (elapsed < seconds);
  return units / elapsed;
}

// ---- Disk ----

// Passes over [begin, end) of the file in chunks; false with errno set after an error.
template <typename Io>
bool Pass(uint64_t begin, uint64_t end, char* buffer, Io io) {
  while (begin < end) {
    const size_t want = static_cast<size_t>(std::min<uint64_t>(kChunk, end - begin));
    const ssize_t done = io(buffer, want, begin);
    if (done < 0 && errno == EINTR) continue;
    if (done <= 0) {
      if (done == 0) errno = EIO;
      return false;
    }
    begin += static_cast<uint64_t>(done);
  }
  return true;
}

// Every thread passes over its share of the file; seconds for all of it, or -1.
template <typename Io>
double TimePass(int threads, uint64_t bytes, const std::vector<Memory>& memory,
                std::atomic<int>* error, Io io) {
  const double begin = Now();
  SumOfRates(threads, error, [&](int thread) {
    const uint64_t share = bytes / static_cast<uint64_t>(threads);
    const uint64_t from = share * static_cast<uint64_t>(thread);
    const uint64_t to = thread + 1 == threads ? bytes : from + share;
    return Pass(from, to, memory[static_cast<size_t>(thread)].at(), io) ? 1.0 : -1.0;
  });
  return error->load() == 0 ? Now() - begin : -1.0;
}

// A job reads and writes at once, and a disk may not do both at the rate of each.
absl::Status MeasureReadingAndWriting(int fd, uint64_t bytes, const Memory& memory,
                                      const ErrorSite& where, ProbeResult* result) {
  posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
  std::atomic<int> error{0};
  const double begin = Now();
  SumOfRates(2, &error, [&](int thread) {
    char* buffer = memory.at() + static_cast<size_t>(thread) * kChunk;
    const uint64_t half = bytes / 2;
    if (thread == 0) {
      return Pass(0, half, buffer,
                  [fd](char* to, size_t size, uint64_t at) {
                    return pread(fd, to, size, static_cast<off_t>(at));
                  })
                 ? 1.0
                 : -1.0;
    }
    const bool written = Pass(half, bytes, buffer, [fd](char* from, size_t size, uint64_t at) {
      return pwrite(fd, from, size, static_cast<off_t>(at));
    });
    return written && fdatasync(fd) == 0 ? 1.0 : -1.0;
  });
  if (error.load() != 0) {
    return ErrnoError("cannot read and write the probe file", error.load(), where);
  }
  result->disk_both = static_cast<double>(bytes) / (Now() - begin);
  return absl::OkStatus();
}

absl::Status MeasureDisk(const ProbeOptions& options, const std::vector<Memory>& memory,
                         ProbeResult* result) {
  OCTAVO_ASSIGN_OR_RETURN(const File file, File::CreateUnlinked(options.dir));
  const int fd = file.fd();
  const ErrorSite where = {.file = options.dir};
  const auto read = [fd](char* to, size_t size, uint64_t at) {
    return pread(fd, to, size, static_cast<off_t>(at));
  };
  struct statvfs space;
  uint64_t limit = std::max(options.file_bytes, kFileStep);
  if (fstatvfs(fd, &space) == 0) {
    limit = std::min<uint64_t>(limit, uint64_t{space.f_bavail} * space.f_frsize / 2);
  }
  limit = limit / kFileStep * kFileStep;
  if (limit == 0) return MakeError(Reason::kDiskFull, "too little space for the probe", where);
  // Steps of write and sync until the file is long enough or the time is up.
  std::atomic<int> error{0};
  uint64_t bytes = 0;
  double seconds = 0;
  while (bytes < limit && seconds < options.seconds * 0.25) {
    const double begin = Now();
    const auto append = [&](char* from, size_t size, uint64_t at) {
      return pwrite(fd, from, size, static_cast<off_t>(bytes + at));
    };
    if (TimePass(result->threads, kFileStep, memory, &error, append) < 0) {
      return ErrnoError("cannot write the probe file", error.load(), where);
    }
    if (fdatasync(fd) != 0) return ErrnoError("cannot sync the probe file", errno, where);
    seconds += Now() - begin;
    bytes += kFileStep;
  }
  result->disk_write = static_cast<double>(bytes) / seconds;
  result->disk_bytes = bytes;
  const auto write = [fd](char* from, size_t size, uint64_t at) {
    return pwrite(fd, from, size, static_cast<off_t>(at));
  };
  seconds = Now();
  if (TimePass(result->threads, bytes, memory, &error, write) < 0 || fdatasync(fd) != 0) {
    return ErrnoError("cannot write the probe file again", error.load(), where);
  }
  result->disk_write = std::max(result->disk_write, static_cast<double>(bytes) / (Now() - seconds));
  OCTAVO_RETURN_IF_ERROR(MeasureReadingAndWriting(fd, bytes, memory.front(), where, result));
  for (const int threads : {1, result->threads}) {
    posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
    seconds = TimePass(threads, bytes, memory, &error, read);
    if (seconds < 0) return ErrnoError("cannot read the probe file", error.load(), where);
    result->disk_read = std::max(result->disk_read, static_cast<double>(bytes) / seconds);
  }
  for (const int threads : {1, result->threads}) {
    seconds = TimePass(threads, bytes, memory, &error, read);
    if (seconds < 0) return ErrnoError("cannot read the probe file", error.load(), where);
    double& rate_to = threads == 1 ? result->page_cache_read_core : result->page_cache_read_all;
    rate_to = std::max(rate_to, static_cast<double>(bytes) / seconds);
  }
  result->page_cache_read_all = std::max(result->page_cache_read_all, result->page_cache_read_core);
  return absl::OkStatus();
}

// ---- Memory and arithmetic ----

// One pass of the cast over a share of `memory`; the codes go behind the source.
double CastPass(const QuantizeOps& ops, const Memory& memory) {
  const size_t row_bytes = kCastColumns * 2;
  const size_t rows = (memory.size() * 2 / 3) / row_bytes;
  auto* codes = reinterpret_cast<uint8_t*>(memory.at() + rows * row_bytes);
  for (size_t row = 0; row < rows; ++row) {
    const char* at = memory.at() + row * row_bytes;
    const uint32_t amax = ops.amax(at, SourceType::kBf16, kCastColumns);
    const float scale = WeightScale(amax, kFp8Max, SourceType::kBf16);
    CastFigures figures;
    ops.cast_row(at, SourceType::kBf16, kCastColumns, &scale, kCastColumns, {},
                 codes + row * kCastColumns, &figures);
  }
  return static_cast<double>(rows * row_bytes);
}

void MeasureCompute(const ProbeOptions& options, const std::vector<Memory>& memory,
                    ProbeResult* result) {
  const QuantizeOps& quantize = QuantizeOpsFor(options.isa);
  const ProbeOps& probe = ProbeOpsFor(options.isa);
  const double slice = std::max(options.seconds * 0.5 / 8, 0.05);
  std::atomic<uint64_t> sink{0};
  std::atomic<int> error{0};
  const auto measure = [&](double* core, double* all, const std::function<double(int)>& pass) {
    const auto timed = [&](int thread) { return Repeat(slice, [&] { return pass(thread); }); };
    *core = SumOfRates(1, &error, timed);
    *all = result->threads == 1 ? *core : SumOfRates(result->threads, &error, timed);
  };
  measure(&result->memory_read_core, &result->memory_read_all, [&](int thread) {
    const Memory& own = memory[static_cast<size_t>(thread)];
    sink ^= probe.read_streams(own.at(), own.size());
    return static_cast<double>(own.size());
  });
  measure(&result->digest_core, &result->digest_all, [&](int thread) {
    const Memory& own = memory[static_cast<size_t>(thread)];
    constexpr size_t kDigested = 64 << 20;
    sink ^= DigestOf({reinterpret_cast<const std::byte*>(own.at()), kDigested}).low;
    return static_cast<double>(kDigested);
  });
  measure(&result->cast_core, &result->cast_all,
          [&](int thread) { return CastPass(quantize, memory[static_cast<size_t>(thread)]); });
  measure(&result->fma_flops_core, &result->fma_flops_all, [&](int) {
    constexpr uint64_t kRounds = 1 << 20;
    sink ^= static_cast<uint64_t>(probe.multiply_add(kRounds));
    return static_cast<double>(kRounds * probe.flops_per_round);
  });
}

}  // namespace

absl::StatusOr<ProbeResult> RunProbe(const ProbeOptions& options) {
  ProbeResult result;
  result.isa = options.isa;
  result.threads = options.threads > 0 ? options.threads : UsableProcessors();
  std::vector<Memory> memory;
  for (int thread = 0; thread < result.threads; ++thread) {
    OCTAVO_ASSIGN_OR_RETURN(Memory own, Memory::Allocate(kMemoryPerThread));
    FillBf16(own.at(), own.size(), static_cast<uint64_t>(thread) + 1);
    memory.push_back(std::move(own));
  }
  OCTAVO_RETURN_IF_ERROR(MeasureDisk(options, memory, &result));
  for (int thread = 0; thread < result.threads; ++thread) {
    FillBf16(memory[static_cast<size_t>(thread)].at(), kMemoryPerThread,
             static_cast<uint64_t>(thread) + 1);
  }
  MeasureCompute(options, memory, &result);
  return result;
}

std::string ToJson(const ProbeResult& r) {
  return fmt::format(
      R"({{"isa":"{}","threads":{},"disk_bytes":{},)"
      R"("disk_write_bytes_per_second":{:.0f},"disk_read_bytes_per_second":{:.0f},)"
      R"("disk_both_bytes_per_second":{:.0f},)"
      R"("page_cache_read_core_bytes_per_second":{:.0f},)"
      R"("page_cache_read_all_bytes_per_second":{:.0f},)"
      R"("digest_core_bytes_per_second":{:.0f},"digest_all_bytes_per_second":{:.0f},)"
      R"("cast_core_bytes_per_second":{:.0f},"cast_all_bytes_per_second":{:.0f},)"
      R"("memory_read_core_bytes_per_second":{:.0f},"memory_read_all_bytes_per_second":{:.0f},)"
      R"("fma_core_flops":{:.0f},"fma_all_flops":{:.0f}}})",
      Name(r.isa), r.threads, r.disk_bytes, r.disk_write, r.disk_read, r.disk_both,
      r.page_cache_read_core, r.page_cache_read_all, r.digest_core, r.digest_all, r.cast_core,
      r.cast_all, r.memory_read_core, r.memory_read_all, r.fma_flops_core, r.fma_flops_all);
}

}  // namespace octavo
