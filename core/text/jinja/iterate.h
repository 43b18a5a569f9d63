#pragma once

// Going through a value: the elements of a list, the characters of a string, the keys of a dict,
// what a generator still has, nothing for undefined.

#include <optional>

#include "absl/status/statusor.h"
#include "core/text/jinja/value.h"

namespace octavo::jinja {

class Iterator {
 public:
  // nullopt at the end, and from then on.
  absl::StatusOr<std::optional<Value>> Next();

 private:
  friend absl::StatusOr<Iterator> Iterate(const Value& value, Budget& budget);
  Iterator(Value value, Budget* budget) : value_(std::move(value)), budget_(budget) {}

  Value value_;
  Budget* budget_;
  size_t at_ = 0;  // the next element, or byte of a string
};

// Errors: a value that has no elements, such as a number or none. REQUIRES: `budget` outlives it.
absl::StatusOr<Iterator> Iterate(const Value& value, Budget& budget);

absl::StatusOr<Items> ToItems(const Value& value, Budget& budget);

bool IsIterable(const Value& value);

// The number of elements or characters; nullopt where Python's len() is an error.
std::optional<int64_t> Length(const Value& value);

}  // namespace octavo::jinja
