#pragma once

// A Store that lives in memory: folders are implied by the paths of their files. Copies what it is
// given. Paths are compared as they are written. Not thread-safe.

#include <cstring>
#include <map>
#include <string>
#include <vector>

#include "core/base/error.h"
#include "core/store/store.h"

namespace octavo {

class MemoryStore : public Store {
 public:
  // Puts a file there, as a test's set-up.
  void Put(const std::string& path, std::string bytes, int64_t mtime_ns = 1) {
    files_[path] = {std::move(bytes), mtime_ns};
  }
  size_t file_count() const { return files_.size(); }
  const std::string& Get(const std::string& path) const { return files_.at(path).bytes; }

  absl::StatusOr<FileFacts> Stat(const std::string& path) const override {
    const auto it = files_.find(path);
    if (it == files_.end()) return Missing(path);
    return FileFacts{.size = it->second.bytes.size(), .mtime_ns = it->second.mtime_ns};
  }
  absl::Status ReadAt(const std::string& path, uint64_t offset,
                      std::span<std::byte> out) const override {
    const auto it = files_.find(path);
    if (it == files_.end()) return Missing(path);
    const std::string& bytes = it->second.bytes;
    if (offset > bytes.size() || out.size() > bytes.size() - offset) {
      return MakeError(Reason::kIo, "file ends", {.file = path, .offset = bytes.size()});
    }
    if (!out.empty()) std::memcpy(out.data(), bytes.data() + offset, out.size());
    return absl::OkStatus();
  }
  absl::StatusOr<std::vector<DirEntry>> List(const std::string& dir) const override {
    const std::string prefix = dir + "/";
    std::map<std::string, DirEntry> entries;
    for (const auto& [path, file] : files_) {
      if (!path.starts_with(prefix)) continue;
      const std::string rest = path.substr(prefix.size());
      const size_t slash = rest.find('/');
      const std::string name = rest.substr(0, slash);
      DirEntry& entry = entries[name];
      entry.name = name;
      entry.regular = slash == std::string::npos;
      entry.directory = !entry.regular;
      entry.size = entry.regular ? file.bytes.size() : 0;
    }
    if (entries.empty()) return Missing(dir);
    std::vector<DirEntry> out;
    for (auto& [name, entry] : entries) out.push_back(entry);
    return out;
  }
  bool Exists(const std::string& path) const override {
    return files_.contains(path) || HasPrefix(path + "/");
  }
  absl::Status CreateDirectories(const std::string&) override { return absl::OkStatus(); }
  absl::Status CreateFile(const std::string& path, uint64_t size, bool keep_existing) override {
    const auto it = files_.find(path);
    if (keep_existing && it != files_.end() && it->second.bytes.size() == size) {
      return absl::OkStatus();
    }
    files_[path] = {std::string(size, '\0'), 1};
    return absl::OkStatus();
  }
  absl::Status WriteAt(const std::string& path, uint64_t offset,
                       std::span<const std::byte> bytes) override {
    const auto it = files_.find(path);
    if (it == files_.end()) return Missing(path);
    std::string& to = it->second.bytes;
    if (offset > to.size() || bytes.size() > to.size() - offset) {
      return MakeError(Reason::kInternal, "write past the end", {.file = path, .offset = offset});
    }
    if (!bytes.empty()) std::memcpy(to.data() + offset, bytes.data(), bytes.size());
    return absl::OkStatus();
  }
  absl::Status Sync(const std::string& path) override {
    return Exists(path) ? absl::OkStatus() : Missing(path);
  }
  absl::Status Publish(const std::string& staged, const std::string& final_path,
                       PublishMode mode) override {
    if (!Exists(staged)) return Missing(staged);
    if (Exists(final_path)) {
      if (mode == PublishMode::kNoReplace) {
        return MakeError(Reason::kOutputExists, "the output exists already", {.file = final_path});
      }
      if (absl::Status status = RemoveTree(final_path); !status.ok()) return status;
    }
    std::map<std::string, File> moved;
    for (auto it = files_.begin(); it != files_.end();) {
      if (it->first == staged || it->first.starts_with(staged + "/")) {
        moved[final_path + it->first.substr(staged.size())] = std::move(it->second);
        it = files_.erase(it);
      } else {
        ++it;
      }
    }
    files_.merge(moved);
    return absl::OkStatus();
  }
  absl::Status RemoveTree(const std::string& path) override {
    std::erase_if(files_, [&](const auto& item) {
      return item.first == path || item.first.starts_with(path + "/");
    });
    return absl::OkStatus();
  }
  absl::StatusOr<uint64_t> FreeBytes(const std::string&) const override { return free_bytes; }

  uint64_t free_bytes = uint64_t{1} << 40;

 private:
  struct File {
    std::string bytes;
    int64_t mtime_ns = 0;
  };
  static absl::Status Missing(const std::string& path) {
    return MakeError(Reason::kInputMissing, "no such file", {.file = path});
  }
  bool HasPrefix(const std::string& prefix) const {
    const auto it = files_.lower_bound(prefix);
    return it != files_.end() && it->first.starts_with(prefix);
  }
  std::map<std::string, File> files_;
};

}  // namespace octavo
