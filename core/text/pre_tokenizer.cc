#include "core/text/pre_tokenizer.h"

#include <algorithm>

#include "core/base/status.h"

namespace octavo {

void PreTokenizer::AddSplit(Regex regex, bool keep_matches, bool keep_gaps) {
  steps_.push_back(static_cast<int>(splits_.size()));
  splits_.push_back({std::move(regex), keep_matches, keep_gaps});
}

void PreTokenizer::AddPrefixSpace() { steps_.push_back(kPrefixSpace); }

void PreTokenizer::SetMetaspace(std::string mark, PrependScheme scheme, bool split) {
  OCTAVO_CHECK(empty() && !mark.empty());
  metaspace_ = Metaspace{std::move(mark), scheme, split};
}

void PreTokenizer::RunMetaspace(const Metaspace& metaspace, std::string_view text, bool at_start,
                                std::deque<std::string>* made,
                                std::vector<std::string_view>* pieces) {
  const std::string& mark = metaspace.mark;
  const bool wanted = metaspace.scheme == PrependScheme::kAlways ||
                      (metaspace.scheme == PrependScheme::kFirst && at_start);
  std::string& marked = made->emplace_back();
  if (wanted && !text.starts_with(' ') && !text.starts_with(mark)) marked = mark;
  for (const char c : text) {
    if (c == ' ') {
      marked += mark;
    } else {
      marked += c;
    }
  }
  std::string_view rest = marked;
  while (metaspace.split && !rest.empty()) {
    const size_t next = rest.find(mark, 1);
    pieces->push_back(rest.substr(0, next));
    rest.remove_prefix(std::min(next, rest.size()));
  }
  if (!rest.empty()) pieces->push_back(rest);
}

absl::Status PreTokenizer::RunSplit(const Split& split, RegexScratch* scratch,
                                    std::vector<std::string_view>* pieces) {
  std::vector<std::string_view> out;
  std::vector<RegexMatch> matches;
  for (const std::string_view piece : *pieces) {
    matches.clear();
    OCTAVO_RETURN_IF_ERROR(split.regex.FindAll(piece, scratch, &matches));
    size_t done = 0;
    auto keep = [&](size_t begin, size_t end, bool kept) {
      if (kept && end > begin) out.push_back(piece.substr(begin, end - begin));
    };
    for (const RegexMatch& match : matches) {
      keep(done, match.begin, split.keep_gaps);
      keep(match.begin, match.end, split.keep_matches);
      done = match.end;
    }
    keep(done, piece.size(), split.keep_gaps);
  }
  *pieces = std::move(out);
  return absl::OkStatus();
}

absl::Status PreTokenizer::Run(std::string_view text, bool at_start, RegexScratch* scratch,
                               std::deque<std::string>* made,
                               std::vector<std::string_view>* pieces) const {
  pieces->clear();
  if (text.empty()) return absl::OkStatus();
  if (metaspace_) {
    RunMetaspace(*metaspace_, text, at_start, made, pieces);
  } else {
    pieces->push_back(text);
  }
  for (const int step : steps_) {
    if (step == kPrefixSpace) {
      for (std::string_view& piece : *pieces) {
        if (!piece.starts_with(' ')) piece = made->emplace_back(" " + std::string(piece));
      }
    } else {
      OCTAVO_RETURN_IF_ERROR(RunSplit(splits_[static_cast<size_t>(step)], scratch, pieces));
    }
  }
  return absl::OkStatus();
}

}  // namespace octavo
