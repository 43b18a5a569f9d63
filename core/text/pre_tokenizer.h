#pragma once

// Cuts text into pieces inside which merging happens: steps in sequence, each working on every
// piece of the one before, as Hugging Face's pre-tokenizers do.

#include <deque>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "core/text/regex.h"

namespace octavo {

class PreTokenizer {
 public:
  // Matches of `regex` and the gaps between them become pieces of their own, or are dropped.
  void AddSplit(Regex regex, bool keep_matches, bool keep_gaps);
  // A space goes before every piece that does not begin with one.
  void AddPrefixSpace();

  // Replaces `pieces` (views into text, or into `made` where a step made new text) by the final
  // ones, none of them empty. REQUIRES: valid UTF-8. Errors: those of Regex::FindAll.
  absl::Status Run(std::string_view text, RegexScratch* scratch, std::deque<std::string>* made,
                   std::vector<std::string_view>* pieces) const;

 private:
  struct Split {
    Regex regex;
    bool keep_matches;
    bool keep_gaps;
  };
  static absl::Status RunSplit(const Split& split, RegexScratch* scratch,
                               std::vector<std::string_view>* pieces);

  // One step: an index into splits_, or kPrefixSpace.
  static constexpr int kPrefixSpace = -1;
  std::vector<int> steps_;
  std::vector<Split> splits_;
};

}  // namespace octavo
