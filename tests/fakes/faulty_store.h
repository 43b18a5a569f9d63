#pragma once

// A Store that passes everything on to another one and fails when told to: the n-th call of a kind,
// from then on or once, with a reason of the test's choice. Not thread-safe.

#include <map>
#include <string>
#include <utility>
#include <vector>

#include "core/base/error.h"
#include "core/store/store.h"

namespace octavo {

class FaultyStore final : public Store {
 public:
  enum class Call { kStat, kRead, kList, kCreate, kWrite, kSync, kPublish, kRemove };

  explicit FaultyStore(Store* inner) : inner_(inner) {}

  // Fails the `nth` (1-based) coming call of that kind, and all later ones if `forever`.
  void FailAt(Call call, int nth, Reason reason, bool forever = false) {
    faults_[call] = {nth, reason, forever};
  }
  int failures() const { return failures_; }

  absl::StatusOr<FileFacts> Stat(const std::string& path) const override {
    if (absl::Status s = Pass(Call::kStat, path); !s.ok()) return s;
    return inner_->Stat(path);
  }
  absl::Status ReadAt(const std::string& path, uint64_t offset,
                      std::span<std::byte> out) const override {
    if (absl::Status s = Pass(Call::kRead, path); !s.ok()) return s;
    return inner_->ReadAt(path, offset, out);
  }
  absl::StatusOr<std::vector<DirEntry>> List(const std::string& dir) const override {
    if (absl::Status s = Pass(Call::kList, dir); !s.ok()) return s;
    return inner_->List(dir);
  }
  bool Exists(const std::string& path) const override { return inner_->Exists(path); }
  absl::Status CreateDirectories(const std::string& dir) override {
    if (absl::Status s = Pass(Call::kCreate, dir); !s.ok()) return s;
    return inner_->CreateDirectories(dir);
  }
  absl::Status CreateFile(const std::string& path, uint64_t size, bool keep) override {
    if (absl::Status s = Pass(Call::kCreate, path); !s.ok()) return s;
    return inner_->CreateFile(path, size, keep);
  }
  absl::Status WriteAt(const std::string& path, uint64_t offset,
                       std::span<const std::byte> bytes) override {
    if (absl::Status s = Pass(Call::kWrite, path); !s.ok()) return s;
    return inner_->WriteAt(path, offset, bytes);
  }
  absl::Status Sync(const std::string& path) override {
    if (absl::Status s = Pass(Call::kSync, path); !s.ok()) return s;
    return inner_->Sync(path);
  }
  absl::Status Publish(const std::string& staged, const std::string& final_path,
                       PublishMode mode) override {
    if (absl::Status s = Pass(Call::kPublish, final_path); !s.ok()) return s;
    return inner_->Publish(staged, final_path, mode);
  }
  absl::Status RemoveTree(const std::string& path) override {
    if (absl::Status s = Pass(Call::kRemove, path); !s.ok()) return s;
    return inner_->RemoveTree(path);
  }
  absl::StatusOr<uint64_t> FreeBytes(const std::string& path) const override {
    return inner_->FreeBytes(path);
  }

 private:
  struct Fault {
    int left = 0;
    Reason reason = Reason::kIo;
    bool forever = false;
  };
  absl::Status Pass(Call call, const std::string& path) const {
    const auto it = faults_.find(call);
    if (it == faults_.end() || it->second.left < 1) return absl::OkStatus();
    if (it->second.left > 1) {
      --it->second.left;
      return absl::OkStatus();
    }
    if (!it->second.forever) it->second.left = 0;
    ++failures_;
    return MakeError(it->second.reason, "injected failure", {.file = path});
  }

  Store* inner_;
  mutable std::map<Call, Fault> faults_;
  mutable int failures_ = 0;
};

}  // namespace octavo
