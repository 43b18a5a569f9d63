#pragma once

// What changes while a template is rendered, besides its variables: namespaces and loops.

#include <optional>

#include "absl/status/statusor.h"
#include "core/text/jinja/iterate.h"
#include "core/text/jinja/value.h"

namespace octavo::jinja {

// namespace(): its attributes are set with {% set ns.name = ... %}.
struct NamespaceData {
  Entries attributes;
};

// The variable `loop` of one loop.
class LoopState {
 public:
  // `depth0`: loops of this name around it, for recursive ones. `recurse`: whether loop(...) may be
  // called. REQUIRES: `budget` outlives it.
  static absl::StatusOr<LoopState> Start(const Value& iterable, int64_t depth0, bool recurse,
                                         Budget& budget);

  // The next element, which becomes the current one; nullopt at the end.
  absl::StatusOr<std::optional<Value>> Advance();

  // loop.index, loop.last, ...; nullopt if there is no such attribute. `loop` is this loop as a
  // value, for its methods. Errors: those of the elements looked at ahead.
  absl::StatusOr<std::optional<Value>> Attribute(const Value& loop, std::string_view name);

  // Of all elements, which makes those of a generator now.
  absl::StatusOr<int64_t> LengthOfAll();
  absl::StatusOr<Value> Cycle(const Items& values) const;
  // Whether these values differ from those of the last call.
  absl::StatusOr<bool> Changed(Items values);

  int64_t depth0() const { return depth0_; }
  bool may_recurse() const { return recurse_; }

 private:
  LoopState(Value iterable, Iterator iterator, int64_t depth0, bool recurse, Budget* budget)
      : iterable_(std::move(iterable)),
        iterator_(std::move(iterator)),
        depth0_(depth0),
        recurse_(recurse),
        budget_(budget) {}

  // Looks one element ahead.
  absl::Status Peek();

  Value iterable_;
  Iterator iterator_;
  int64_t depth0_;
  bool recurse_;
  Budget* budget_;
  int64_t index0_ = -1;
  std::optional<Value> current_;
  std::optional<Value> before_;
  bool peeked_ = false;
  std::optional<Value> after_;  // once peeked; empty at the end
  std::optional<int64_t> length_;
  std::optional<Items> changed_;
};

}  // namespace octavo::jinja
