#pragma once

// Cuts text into pieces inside which merging happens: steps in sequence, each working on every
// piece of the one before, as Hugging Face's pre-tokenizers do.

#include <deque>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "core/text/regex.h"

namespace octavo {

// Which text Metaspace puts its mark before.
enum class PrependScheme {
  kNever,
  kFirst,   // only the text that is at the start of all
  kAlways,  // every text between added tokens
};

class PreTokenizer {
 public:
  // Matches of `regex` and the gaps between them become pieces of their own, or are dropped.
  void AddSplit(Regex regex, bool keep_matches, bool keep_gaps);
  // A space goes before every piece that does not begin with one.
  void AddPrefixSpace();
  // Spaces become `mark` (one character, as "▁"), which also goes, by the scheme, before text that
  // does not begin with it; with `split`, every mark begins a piece. REQUIRES: the first step.
  void SetMetaspace(std::string mark, PrependScheme scheme, bool split);

  // Whether it leaves text as it is, in one piece.
  bool empty() const { return steps_.empty() && !metaspace_; }

  // Replaces `pieces` (views into text, or into `made` where a step made new text) by the final
  // ones, none of them empty. `at_start`: whether `text` is the start of what is encoded.
  // REQUIRES: valid UTF-8. Errors: those of Regex::FindAll.
  absl::Status Run(std::string_view text, bool at_start, RegexScratch* scratch,
                   std::deque<std::string>* made, std::vector<std::string_view>* pieces) const;

 private:
  struct Split {
    Regex regex;
    bool keep_matches;
    bool keep_gaps;
  };
  struct Metaspace {
    std::string mark;
    PrependScheme scheme;
    bool split;
  };
  static void RunMetaspace(const Metaspace& metaspace, std::string_view text, bool at_start,
                           std::deque<std::string>* made, std::vector<std::string_view>* pieces);
  static absl::Status RunSplit(const Split& split, RegexScratch* scratch,
                               std::vector<std::string_view>* pieces);

  // One step: an index into splits_, or kPrefixSpace.
  static constexpr int kPrefixSpace = -1;
  std::optional<Metaspace> metaspace_;
  std::vector<int> steps_;
  std::vector<Split> splits_;
};

}  // namespace octavo
