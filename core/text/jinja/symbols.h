#pragma once

// The names of one scope while they are being resolved (scopes.h).

#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "core/text/jinja/ast.h"

namespace octavo::jinja {

// A function under resolution: the template, a macro, a call block, a recursive loop. Scopes within
// it share the slots of its frame.
struct FunctionScope {
  int depth = 0;
  int slots = 0;
};

struct Variable {
  const FunctionScope* function;
  int slot;
};

class Symbols {
 public:
  // REQUIRES: `parent` (null for the template) and `function` outlive it.
  Symbols(const Symbols* parent, FunctionScope* function)
      : parent_(parent), function_(function), slots_(std::make_shared<Slots>()) {}

  // What happens to a name, in the order of the text.
  void Load(const std::string& name);
  void Store(const std::string& name);
  void DeclareParameter(const std::string& name);
  // Takes in the branches of an "if", each of which started as a copy of this.
  void MergeBranches(const std::vector<Symbols>& branches);

  const Variable* Find(const std::string& name) const;
  // Whether nothing in the template assigns the name where it is seen from here.
  bool IsFromContext(const std::string& name) const;
  // How this scope's function reaches a variable. REQUIRES: a known name.
  Place PlaceOf(const std::string& name) const;
  ScopeStart Start() const;
  FunctionScope* function() const { return function_; }

 private:
  enum class Origin { kParameter, kUnassigned, kFromContext, kFromOuter };
  struct Entry {
    Origin origin;
    Variable outer = {nullptr, -1};  // kFromOuter
  };
  using Slots = std::map<std::string, int>;

  void Define(const std::string& name, Entry entry);

  const Symbols* parent_;
  FunctionScope* function_;
  std::shared_ptr<Slots> slots_;  // also of copies: a name has one slot in a scope
  std::map<std::string, Variable> variables_;
  std::map<std::string, Entry> entries_;
  std::set<std::string> stores_;
};

}  // namespace octavo::jinja
