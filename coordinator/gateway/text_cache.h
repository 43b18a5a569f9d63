#pragma once

// Tokenizers and templates of the models being served, fetched from their leaders. A leader is
// asked for the digests of its files first; what is known by digest is not fetched again, so a
// group that forms anew costs nothing.

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "core/base/mutex.h"
#include "core/text/text_bundle.h"
#include "octavo/v1/inference.pb.h"

namespace octavo {

class TextCache {
 public:
  // Models whose text is kept; beyond, the one not used for longest goes.
  static constexpr size_t kBundlesMax = 8;

  explicit TextCache(std::string token) : token_(std::move(token)) {}

  // Errors: kNotReady where the leader is lost, others of its own, those of LoadTextBundle.
  absl::StatusOr<std::shared_ptr<const TextBundle>> Get(const v1::ModelInfo& model);

 private:
  struct Entry {
    std::string digest;  // of all files
    std::shared_ptr<const TextBundle> text;
    uint64_t used = 0;
  };
  struct Seen {
    uint64_t epoch = 0;
    std::string leader;
    std::string digest;
  };

  std::shared_ptr<const TextBundle> Find(const std::string& digest);
  std::shared_ptr<const TextBundle> FindModel(const v1::ModelInfo& model);
  void Keep(const std::string& digest, std::shared_ptr<const TextBundle> text);

  const std::string token_;
  Mutex fetch_mutex_;  // one fetch at a time
  Mutex mutex_;
  uint64_t uses_ OCTAVO_GUARDED_BY(mutex_) = 0;
  std::vector<Entry> entries_ OCTAVO_GUARDED_BY(mutex_);
  std::map<std::string, Seen> models_ OCTAVO_GUARDED_BY(mutex_);  // by model id
};

}  // namespace octavo
