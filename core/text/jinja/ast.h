#pragma once

// A parsed template: statements and expressions as a tree of plain values. Names are resolved when
// it is parsed (scopes.h), so that rendering looks variables up by their place.

#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "core/text/jinja/native.h"
#include "core/text/jinja/operators.h"
#include "core/text/jinja/value.h"

namespace octavo::jinja {

// Where a variable lives: a slot of the frame of this function, or of one `hops` functions out.
struct Place {
  int hops = 0;
  int slot = -1;
};

struct Expr;
using ExprPtr = std::unique_ptr<Expr>;

struct Literal {
  Value value;
};
struct Name {
  std::string name;
  Place place = {};
  Value undefined = {};  // what an unassigned slot reads as
};
struct Unary {
  UnaryOp op;
  ExprPtr operand;
};
struct Binary {
  BinaryOp op;
  ExprPtr left;
  ExprPtr right;
};
struct Logical {  // and, or: give one of their operands
  bool is_and;
  ExprPtr left;
  ExprPtr right;
};
struct Concat {  // ~
  std::vector<ExprPtr> parts;
};
enum class CompareOp {
  kEqual,
  kNotEqual,
  kLess,
  kLessOrEqual,
  kGreater,
  kGreaterOrEqual,
  kIn,
  kNotIn
};
struct Compare {
  ExprPtr first;
  std::vector<std::pair<CompareOp, ExprPtr>> rest;
};
struct Conditional {
  ExprPtr test;
  ExprPtr then;
  ExprPtr otherwise;  // null: undefined
};
struct AttributeOf {
  ExprPtr object;
  std::string name;
};
struct ItemOf {
  ExprPtr object;
  ExprPtr index;
};
struct SliceOf {
  ExprPtr object;
  ExprPtr start;  // each may be null
  ExprPtr stop;
  ExprPtr step;
};
struct ListOf {
  SequenceKind kind;
  std::vector<ExprPtr> items;
};
struct DictOf {
  std::vector<std::pair<ExprPtr, ExprPtr>> entries;
};
struct CallArguments {
  std::vector<ExprPtr> positional;
  std::vector<std::pair<std::string, ExprPtr>> named;
  ExprPtr star;       // *args; may be null
  ExprPtr star_star;  // **kwargs; may be null
};
struct Call {
  ExprPtr callee;
  CallArguments arguments;
};
struct Apply {  // a filter or a test
  ExprPtr subject;
  const FunctionEntry* function;
  bool is_filter;
  CallArguments arguments;
};
struct BlockText {};  // what the body of a filter or set block made

struct Expr {
  int line;
  std::variant<Literal, Name, Unary, Binary, Logical, Concat, Compare, Conditional, AttributeOf,
               ItemOf, SliceOf, ListOf, DictOf, Call, Apply, BlockText>
      node;
  int height = 1;  // of the tree below
};

// What a scope does to its slots when it is entered.
struct SlotStart {
  enum class Kind { kUnassigned, kFromContext, kFromOuter };
  int slot;
  Kind kind;
  std::string name = {};  // kFromContext: a variable of the rendering, or a global
  Place outer = {};       // kFromOuter
};
using ScopeStart = std::vector<SlotStart>;

struct Statement;
using Body = std::vector<Statement>;

// The left side of an assignment: a name, ns.attribute, or several.
struct Target {
  int line;
  Name name;
  std::optional<std::string> attribute;  // of the namespace `name`
  std::optional<std::vector<Target>> several;
};

struct Output {
  std::vector<ExprPtr> parts;
};
struct If {
  std::vector<std::pair<ExprPtr, Body>> branches;
  Body otherwise;
};
struct For {
  Target target;
  ExprPtr iterable;
  Target test_target;  // the same names in the scope of the test
  ExprPtr test;        // may be null
  bool recursive = false;
  Body body;
  Body otherwise;
  std::optional<Name> loop = {};  // where `loop` lives, if the body names it
  ScopeStart test_start = {};
  ScopeStart body_start = {};
  ScopeStart otherwise_start = {};
  int slots = 0;  // of the frame of a recursive loop
};
struct Set {
  Target target;
  ExprPtr value;
};
struct SetBlock {
  Target target;
  ExprPtr value;  // on BlockText
  Body body;
  ScopeStart start = {};
};
struct FilterBlock {
  ExprPtr value;  // on BlockText
  Body body;
  ScopeStart start = {};
};
struct With {
  std::vector<std::pair<Target, ExprPtr>> values;
  Body body;
  ScopeStart start = {};
};
// The function that a macro or a call block makes.
struct MacroBody {
  std::string name;
  std::vector<Name> parameters;
  std::vector<ExprPtr> defaults;  // of the last parameters
  Body body;
  std::optional<Name> caller = {};  // where these live, if the body names them
  std::optional<Name> kwargs = {};
  std::optional<Name> varargs = {};
  ScopeStart start = {};
  int slots = 0;
};
struct Macro {
  Name name;
  MacroBody macro;
};
struct CallBlock {
  ExprPtr call;  // null: {% generation %}, which shows its body
  MacroBody macro;
};
struct Break {};
struct Continue {};

struct Statement {
  int line;
  std::variant<Output, If, For, Set, SetBlock, FilterBlock, With, Macro, CallBlock, Break, Continue>
      node;
};

// The whole: the body of a function that nobody calls.
struct Program {
  Body body;
  ScopeStart start = {};
  int slots = 0;
};

}  // namespace octavo::jinja
