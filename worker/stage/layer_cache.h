#pragma once

// Layers in memory, and the buffers of what runs through them, within one budget. A layer is read
// once and stays while there is room; the one used longest ago leaves first.

#include <cstdint>
#include <functional>
#include <list>
#include <memory>
#include <stop_token>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "core/base/mutex.h"
#include "worker/runner/layer_runner.h"

namespace octavo {

class LayerCache {
 private:
  struct Entry;

 public:
  // A layer that stays for as long as this lives (unless bytes alone were asked for), and buffer
  // bytes that may be used meanwhile.
  class Loan {
   public:
    Loan(Loan&& other) noexcept;
    Loan& operator=(Loan&&) = delete;
    ~Loan();
    const LayerRunner& layer() const;

   private:
    friend class LayerCache;
    Loan(LayerCache* cache, std::shared_ptr<Entry> entry, uint64_t bytes);
    LayerCache* cache_;
    std::shared_ptr<Entry> entry_;
    uint64_t bytes_;
  };

  struct Request {
    std::string key;            // of the layer: same key, same weights
    uint64_t weight_bytes = 0;  // an upper estimate
    uint64_t run_bytes = 0;
    std::function<absl::StatusOr<std::unique_ptr<LayerRunner>>()> load;
  };

  explicit LayerCache(uint64_t limit) : limit_(limit) {}

  // Waits until layer and buffers fit. kOutOfMemory if they never can, naming the numbers;
  // kCancelled when stopped; errors of `load`. Must outlive its loans.
  absl::StatusOr<Loan> Borrow(const Request& request, const std::stop_token& stop);

  // Bytes alone. Errors as Borrow.
  absl::StatusOr<Loan> BorrowBytes(uint64_t bytes, const std::stop_token& stop);

  // Layers that nobody holds leave.
  void DropIdle();

  uint64_t limit() const { return limit_; }
  uint64_t in_use() const;

 private:
  struct Entry {
    std::string key;
    uint64_t bytes = 0;
    int loans = 0;
    bool loading = true;
    std::unique_ptr<LayerRunner> layer;
  };

  // These three with the lock held.
  std::shared_ptr<Entry> Find(const std::string& key);
  // Makes layers that nobody holds leave until `bytes` fit, if they can.
  bool MakeRoom(uint64_t bytes);
  void Remove(const Entry& entry);
  absl::Status Load(const Request& request, const std::shared_ptr<Entry>& entry);
  void Return(Entry* entry, uint64_t bytes);

  const uint64_t limit_;
  mutable Mutex mutex_;
  CondVar changed_;
  std::list<std::shared_ptr<Entry>> entries_ OCTAVO_GUARDED_BY(mutex_);  // last used first
  uint64_t used_ OCTAVO_GUARDED_BY(mutex_) = 0;
};

}  // namespace octavo
