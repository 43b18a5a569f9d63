#pragma once

// A folder that is finished or not there: written under a temporary name beside its final one,
// renamed at the end.

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "core/store/store.h"

namespace octavo {

class StagedFolder {
 public:
  // Makes "<final>.partial-<random>". kOutputExists when `final_dir` exists; its parents are made.
  static absl::StatusOr<StagedFolder> Create(Store* store, const std::string& final_dir);
  // Removes what was staged and not published.
  ~StagedFolder();
  StagedFolder(StagedFolder&& other) noexcept;
  StagedFolder& operator=(StagedFolder&&) = delete;

  const std::string& path() const { return path_; }
  // Syncs the folder and renames it. The files must be synced already.
  absl::Status Publish();

 private:
  StagedFolder(Store* store, std::string final_dir, std::string path);
  Store* store_;
  std::string final_dir_;
  std::string path_;  // empty: published or moved from
};

}  // namespace octavo
