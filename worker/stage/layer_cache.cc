#include "worker/stage/layer_cache.h"

#include <algorithm>
#include <chrono>
#include <utility>

#include "core/base/error.h"
#include "core/base/status.h"
#include "fmt/format.h"

namespace octavo {
namespace {

// Every wait looks at its stop token this often.
constexpr std::chrono::milliseconds kCachePoll{100};

}  // namespace

LayerCache::Loan::Loan(LayerCache* cache, std::shared_ptr<Entry> entry, uint64_t bytes)
    : cache_(cache), entry_(std::move(entry)), bytes_(bytes) {}

LayerCache::Loan::Loan(Loan&& other) noexcept
    : cache_(std::exchange(other.cache_, nullptr)),
      entry_(std::move(other.entry_)),
      bytes_(other.bytes_) {}

LayerCache::Loan::~Loan() {
  if (cache_ != nullptr) cache_->Return(entry_.get(), bytes_);
}

const LayerRunner& LayerCache::Loan::layer() const { return *entry_->layer; }

absl::StatusOr<LayerCache::Loan> LayerCache::Borrow(const Request& request,
                                                    const std::stop_token& stop) {
  const uint64_t most = request.weight_bytes + request.run_bytes;
  if (most > limit_) {
    return MakeError(Reason::kOutOfMemory,
                     fmt::format("a layer takes {} bytes and its activations {}; the worker has "
                                 "{} for them",
                                 request.weight_bytes, request.run_bytes, limit_),
                     {}, "Give workers more --memory, or calibrate with shorter samples");
  }
  std::shared_ptr<Entry> entry;
  {
    MutexLock lock(mutex_);
    while (true) {
      if (stop.stop_requested()) return MakeError(Reason::kCancelled, "the task was stopped");
      entry = Find(request.key);
      const bool wait = entry != nullptr && entry->loading;
      if (!wait) {
        if (entry != nullptr) ++entry->loans;  // MakeRoom must leave it
        const bool fits =
            MakeRoom(request.run_bytes + (entry == nullptr ? request.weight_bytes : 0));
        if (fits && entry != nullptr) {
          used_ += request.run_bytes;
          return Loan(this, std::move(entry), request.run_bytes);
        }
        if (fits) break;
        if (entry != nullptr) --entry->loans;
      }
      changed_.WaitFor(mutex_, kCachePoll);
    }
    entry = std::make_shared<Entry>();
    entry->key = request.key;
    entry->bytes = request.weight_bytes;
    entry->loans = 1;
    entries_.push_front(entry);
    used_ += request.weight_bytes + request.run_bytes;
  }
  Loan loan(this, entry, request.run_bytes);
  OCTAVO_RETURN_IF_ERROR(Load(request, entry));
  return loan;
}

absl::StatusOr<LayerCache::Loan> LayerCache::BorrowBytes(uint64_t bytes,
                                                         const std::stop_token& stop) {
  if (bytes > limit_) {
    return MakeError(
        Reason::kOutOfMemory,
        fmt::format("a Hessian takes {} bytes; the worker has {} for it", bytes, limit_), {},
        "Give workers more --memory");
  }
  MutexLock lock(mutex_);
  while (!MakeRoom(bytes)) {
    if (stop.stop_requested()) return MakeError(Reason::kCancelled, "the task was stopped");
    changed_.WaitFor(mutex_, kCachePoll);
  }
  used_ += bytes;
  return Loan(this, nullptr, bytes);
}

absl::Status LayerCache::Load(const Request& request, const std::shared_ptr<Entry>& entry) {
  auto layer = request.load();
  MutexLock lock(mutex_);
  entry->loading = false;
  changed_.NotifyAll();
  if (!layer.ok()) {
    Remove(*entry);
    return layer.status();
  }
  entry->layer = *std::move(layer);
  return absl::OkStatus();
}

std::shared_ptr<LayerCache::Entry> LayerCache::Find(const std::string& key) {
  const auto found = std::find_if(entries_.begin(), entries_.end(),
                                  [&](const auto& entry) { return entry->key == key; });
  if (found == entries_.end()) return nullptr;
  entries_.splice(entries_.begin(), entries_, found);
  return entries_.front();
}

bool LayerCache::MakeRoom(uint64_t bytes) {
  while (used_ + bytes > limit_) {
    const auto idle = std::find_if(entries_.rbegin(), entries_.rend(),
                                   [](const auto& entry) { return entry->loans == 0; });
    if (idle == entries_.rend()) return false;
    Remove(**idle);
  }
  return true;
}

void LayerCache::Remove(const Entry& entry) {
  used_ -= entry.bytes;
  entries_.remove_if([&](const auto& other) { return other.get() == &entry; });
}

void LayerCache::Return(Entry* entry, uint64_t bytes) {
  MutexLock lock(mutex_);
  if (entry != nullptr) --entry->loans;
  used_ -= bytes;
  changed_.NotifyAll();
}

void LayerCache::DropIdle() {
  MutexLock lock(mutex_);
  std::erase_if(entries_, [&](const auto& entry) {
    if (entry->loans > 0) return false;
    used_ -= entry->bytes;
    return true;
  });
}

uint64_t LayerCache::in_use() const {
  MutexLock lock(mutex_);
  return used_;
}

}  // namespace octavo
