use std::collections::BTreeMap;

use super::{Allowance, Global, Heap, Object, Value, opcode};
use crate::ImportError;

/// Instructions after which a pickle is taken for hostile: the largest checkpoints have thousands of
/// tensors and some forty instructions for each.
const MAX_INSTRUCTIONS: usize = 1 << 22;

/// Bytes that one item of a list takes at most while the list grows: the old list and a new one of twice the size.
const ITEM: usize = 3 * size_of::<Value>();

/// Bytes of an entry of the memo, with its share of the tree's nodes.
const NOTE: usize = 64;

/// What one pickle holds.
#[derive(Debug)]
pub(in crate::checkpoint) struct Loaded<'a> {
    pub(in crate::checkpoint) heap: Heap<'a>,
    pub(in crate::checkpoint) root: Value,
    /// First byte after the pickle.
    pub(in crate::checkpoint) end: usize,
}

/// Reads the pickle that begins at `bytes[start]`, with no more memory than `allowance` has left.
///
/// # Errors
/// [`ImportError::Invalid`] for one that asks for more, [`ImportError::Damaged`] with the byte for all else.
pub(in crate::checkpoint) fn load<'a>(
    bytes: &'a [u8],
    start: usize,
    allowance: &mut Allowance,
) -> Result<Loaded<'a>, ImportError> {
    let mut machine = Machine {
        bytes,
        at: start,
        stack: Vec::new(),
        marks: Vec::new(),
        memo: BTreeMap::new(),
        heap: Heap::default(),
        allowance,
        charged: [0; 2],
    };
    for _ in 0..MAX_INSTRUCTIONS {
        if let Some(root) = machine.step()? {
            return Ok(Loaded {
                heap: machine.heap,
                root,
                end: machine.at,
            });
        }
    }
    Err(machine.fault(format!(
        "more than {MAX_INSTRUCTIONS} instructions, which no dictionary of tensors needs"
    )))
}

/// A pickle under execution.
pub(super) struct Machine<'a, 'm> {
    bytes: &'a [u8],
    at: usize,
    stack: Vec<Value>,
    /// Heights of the stack at the open marks.
    marks: Vec<usize>,
    memo: BTreeMap<u64, Value>,
    pub(super) heap: Heap<'a>,
    pub(super) allowance: &'m mut Allowance,
    /// Heights of the stack and of the marks up to which the allowance has paid.
    charged: [usize; 2],
}

impl<'a> Machine<'a, '_> {
    /// Executes one instruction; gives the result where it was the last.
    fn step(&mut self) -> Result<Option<Value>, ImportError> {
        let [opcode] = self.take()?;
        match opcode {
            opcode::PROTO => {
                let [version] = self.take()?;
                if !(2..=5).contains(&version) {
                    return Err(self.fault(format!("pickle protocol {version}, wanted 2 to 5")));
                }
            }
            opcode::FRAME => {
                self.take::<8>()?;
            }
            opcode::STOP => {
                let root = self.pop()?;
                return Ok(Some(root));
            }
            opcode::MARK => {
                self.marks.push(self.stack.len());
                if self.marks.len() > self.charged[1] {
                    self.charged[1] = self.marks.len();
                    self.allowance.take(ITEM)?;
                }
            }
            opcode::POP => {
                if self.marks.last() == Some(&self.stack.len()) {
                    self.marks.pop();
                } else {
                    self.pop()?;
                }
            }
            opcode::POP_MARK => {
                self.pop_to_mark()?;
            }
            opcode::DUP => {
                let top = self.top()?;
                self.push(top)?;
            }
            opcode::NONE => self.push(Value::None)?,
            opcode::NEWTRUE | opcode::NEWFALSE => {
                self.push(Value::Bool(opcode == opcode::NEWTRUE))?;
            }
            opcode::BININT | opcode::BININT1 | opcode::BININT2 | opcode::LONG1 | opcode::LONG4 => {
                let value = self.integer(opcode)?;
                self.push(value)?;
            }
            opcode::BINFLOAT => {
                self.take::<8>()?;
                self.push(Value::Float)?;
            }
            opcode::SHORT_BINSTRING
            | opcode::BINSTRING
            | opcode::SHORT_BINUNICODE
            | opcode::BINUNICODE
            | opcode::BINUNICODE8 => {
                let bytes = self.counted(opcode)?;
                // Strings of Python 2 are bytes.
                self.push_object(match str::from_utf8(bytes) {
                    Ok(text) => Object::Text(text),
                    Err(_) => Object::Bytes(bytes),
                })?;
            }
            opcode::SHORT_BINBYTES | opcode::BINBYTES | opcode::BINBYTES8 | opcode::BYTEARRAY8 => {
                let bytes = self.counted(opcode)?;
                self.push_object(Object::Bytes(bytes))?;
            }
            opcode::EMPTY_TUPLE | opcode::EMPTY_LIST | opcode::EMPTY_SET => {
                self.push_object(Object::Sequence(Vec::new()))?;
            }
            opcode::TUPLE | opcode::LIST | opcode::FROZENSET => {
                let items = self.pop_to_mark()?;
                self.allowance.take(items.len() * size_of::<Value>())?;
                self.push_object(Object::Sequence(items))?;
            }
            opcode::TUPLE1 | opcode::TUPLE2 | opcode::TUPLE3 => {
                let count = usize::from(opcode - opcode::TUPLE1) + 1;
                let mut items = Vec::with_capacity(count);
                for _ in 0..count {
                    items.push(self.pop()?);
                }
                items.reverse();
                self.allowance.take(count * size_of::<Value>())?;
                self.push_object(Object::Sequence(items))?;
            }
            opcode::APPEND => {
                let item = self.pop()?;
                self.extend_sequence(vec![item])?;
            }
            opcode::APPENDS | opcode::ADDITEMS => {
                let items = self.pop_to_mark()?;
                self.extend_sequence(items)?;
            }
            opcode::EMPTY_DICT => self.push_object(Object::Dict(Vec::new()))?,
            opcode::DICT => {
                let items = self.pop_to_mark()?;
                self.push_object(Object::Dict(Vec::new()))?;
                self.extend_dict(&items)?;
            }
            opcode::SETITEM => {
                let value = self.pop()?;
                let key = self.pop()?;
                self.extend_dict(&[key, value])?;
            }
            opcode::SETITEMS => {
                let items = self.pop_to_mark()?;
                self.extend_dict(&items)?;
            }
            opcode::BINPUT | opcode::LONG_BINPUT => {
                let index = self.length(opcode)?;
                self.remember(index)?;
            }
            opcode::MEMOIZE => self.remember(self.memo.len() as u64)?,
            opcode::BINGET | opcode::LONG_BINGET => {
                let index = self.length(opcode)?;
                let Some(&value) = self.memo.get(&index) else {
                    return Err(self.fault(format!("memo {index} was never filled")));
                };
                self.push(value)?;
            }
            opcode::GLOBAL => {
                let (module, name) = (self.line()?, self.line()?);
                let global = Global::resolve(module, name);
                self.push_object(Object::Global(global))?;
            }
            // A class that is called at once, with all that lies above the mark: how Python 2 wrote old classes.
            opcode::INST => {
                let (module, name) = (self.line()?, self.line()?);
                self.pop_to_mark()?;
                self.push_object(Object::Global(Global::resolve(module, name)))?;
                let class = self.pop()?;
                let value = self.opaque(class)?;
                self.push(value)?;
            }
            opcode::OBJ => {
                let items = self.pop_to_mark()?;
                let Some(&class) = items.first() else {
                    return Err(self.fault("an object without a class"));
                };
                let value = self.opaque(class)?;
                self.push(value)?;
            }
            opcode::STACK_GLOBAL => {
                let (name, module) = (self.pop()?, self.pop()?);
                let (Some(module), Some(name)) = (self.heap.text(module), self.heap.text(name))
                else {
                    return Err(self.fault("a global's name is not a string"));
                };
                let global = Global::resolve(module, name);
                self.push_object(Object::Global(global))?;
            }
            opcode::REDUCE | opcode::NEWOBJ => {
                let (arguments, callable) = (self.pop()?, self.pop()?);
                let value = self.call(callable, arguments)?;
                self.push(value)?;
            }
            opcode::NEWOBJ_EX => {
                let (_, arguments, callable) = (self.pop()?, self.pop()?, self.pop()?);
                let value = self.call(callable, arguments)?;
                self.push(value)?;
            }
            opcode::BUILD => {
                let state = self.pop()?;
                let top = self.top()?;
                self.build(top, state)?;
            }
            opcode::BINPERSID => {
                let id = self.pop()?;
                let storage = self.storage(id)?;
                self.push(storage)?;
            }
            other => {
                return Err(self.fault(format!(
                    "opcode 0x{other:02x}, which no dictionary of tensors needs"
                )));
            }
        }
        Ok(None)
    }

    fn integer(&mut self, opcode: u8) -> Result<Value, ImportError> {
        Ok(Value::Int(match opcode {
            opcode::BININT => i64::from(i32::from_le_bytes(self.take()?)),
            opcode::BININT1 => i64::from(u8::from_le_bytes(self.take()?)),
            opcode::BININT2 => i64::from(u16::from_le_bytes(self.take()?)),
            _ => {
                let digits = self.counted(opcode)?;
                let negative = digits.last().is_some_and(|&byte| byte & 0x80 != 0);
                let sign = if negative { 0xff } else { 0 };
                let mut wide = [sign; 9];
                let (low, high) = digits.split_at(digits.len().min(wide.len()));
                wide[..low.len()].copy_from_slice(low);
                let (value, [top]) = wide.split_at(8) else {
                    unreachable!("eight of nine bytes")
                };
                let value = i64::from_le_bytes(value.try_into().expect("eight bytes"));
                // Bytes above the eighth may only repeat the sign.
                if *top != sign || high.iter().any(|&byte| byte != sign) || (value < 0) != negative
                {
                    return Ok(Value::Long);
                }
                value
            }
        }))
    }

    /// The count that an opcode is followed by; for the memo's, its index.
    fn length(&mut self, opcode: u8) -> Result<u64, ImportError> {
        Ok(match opcode {
            opcode::LONG1
            | opcode::SHORT_BINSTRING
            | opcode::SHORT_BINUNICODE
            | opcode::SHORT_BINBYTES
            | opcode::BINPUT
            | opcode::BINGET => u64::from(u8::from_le_bytes(self.take()?)),
            opcode::BINUNICODE8 | opcode::BINBYTES8 | opcode::BYTEARRAY8 => {
                u64::from_le_bytes(self.take()?)
            }
            _ => u64::from(u32::from_le_bytes(self.take()?)),
        })
    }

    /// As many bytes as the count before them says.
    fn counted(&mut self, opcode: u8) -> Result<&'a [u8], ImportError> {
        let count = self.length(opcode)?;
        let left = &self.bytes[self.at..];
        match usize::try_from(count)
            .ok()
            .and_then(|count| left.split_at_checked(count))
        {
            Some((taken, _)) => {
                self.at += taken.len();
                Ok(taken)
            }
            None => Err(self.fault(format!("{count} bytes where {} are left", left.len()))),
        }
    }

    fn line(&mut self) -> Result<&'a str, ImportError> {
        let left = &self.bytes[self.at..];
        let end = left.iter().position(|&byte| byte == b'\n');
        let line = end.and_then(|end| str::from_utf8(&left[..end]).ok());
        let Some(line) = line else {
            return Err(self.fault("a name without an end, or no UTF-8"));
        };
        self.at += line.len() + 1;
        Ok(line)
    }

    fn take<const N: usize>(&mut self) -> Result<[u8; N], ImportError> {
        match self.bytes.get(self.at..).and_then(<[u8]>::first_chunk) {
            Some(&taken) => {
                self.at += N;
                Ok(taken)
            }
            None => Err(self.fault("ends too early")),
        }
    }

    /// Keeps an object.
    pub(super) fn add(&mut self, object: Object<'a>) -> Result<Value, ImportError> {
        self.allowance.take(Heap::OBJECT)?;
        let added = self.heap.add(object);
        added.ok_or_else(|| self.fault("more objects than can be counted"))
    }

    fn push_object(&mut self, object: Object<'a>) -> Result<(), ImportError> {
        let value = self.add(object)?;
        self.push(value)
    }

    fn push(&mut self, value: Value) -> Result<(), ImportError> {
        self.stack.push(value);
        if self.stack.len() > self.charged[0] {
            self.charged[0] = self.stack.len();
            self.allowance.take(ITEM)?;
        }
        Ok(())
    }

    fn remember(&mut self, index: u64) -> Result<(), ImportError> {
        let top = self.top()?;
        if self.memo.insert(index, top).is_none() {
            self.allowance.take(NOTE)?;
        }
        Ok(())
    }

    fn top(&self) -> Result<Value, ImportError> {
        let floor = self.marks.last().copied().unwrap_or(0);
        match self.stack.last() {
            Some(&top) if self.stack.len() > floor => Ok(top),
            _ => Err(self.fault("takes more from the stack than there is")),
        }
    }

    fn pop(&mut self) -> Result<Value, ImportError> {
        let top = self.top()?;
        self.stack.pop();
        Ok(top)
    }

    fn pop_to_mark(&mut self) -> Result<Vec<Value>, ImportError> {
        match self.marks.pop() {
            Some(mark) => Ok(self.stack.split_off(mark)),
            None => Err(self.fault("goes back to a mark that was never set")),
        }
    }

    fn extend_sequence(&mut self, items: Vec<Value>) -> Result<(), ImportError> {
        let target = self.top()?;
        self.allowance.take(items.len() * ITEM)?;
        match self.heap.object_mut(target) {
            Some(Object::Sequence(sequence)) => {
                sequence.extend(items);
                Ok(())
            }
            // A list of a class of somebody's own.
            Some(Object::Opaque(_)) => Ok(()),
            _ => Err(self.fault("items for something that is not a list")),
        }
    }

    fn extend_dict(&mut self, items: &[Value]) -> Result<(), ImportError> {
        let target = self.top()?;
        let (pairs, rest) = items.as_chunks::<2>();
        self.allowance.take(items.len() * ITEM)?;
        match self.heap.object_mut(target) {
            Some(Object::Dict(dict)) if rest.is_empty() => {
                dict.extend(pairs.iter().map(|&[key, value]| (key, value)));
                Ok(())
            }
            // A dictionary of a class of somebody's own.
            Some(Object::Opaque(_)) => Ok(()),
            _ => Err(self.fault("items for something that is not a dictionary")),
        }
    }

    pub(super) fn fault(&self, what: impl Into<String>) -> ImportError {
        ImportError::damaged(format!("pickle at byte {}", self.at), what)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(bytes: &[u8]) -> Result<Loaded<'_>, ImportError> {
        load(bytes, 0, &mut Allowance::of(bytes.len()))
    }

    fn fault(bytes: &[u8]) -> String {
        read(bytes).unwrap_err().to_string()
    }

    /// `pickle.dumps({'a': [1, -2, 300], 'b': (None, True)}, protocol=2)` and `protocol=4`.
    #[test]
    fn python_containers_are_read_in_both_dialects() {
        let two = b"\x80\x02}q\x00(X\x01\x00\x00\x00aq\x01]q\x02(K\x01J\xfe\xff\xff\xffM,\x01eX\x01\x00\x00\x00bq\x03N\x88\x86q\x04u.";
        let four = b"\x80\x04\x95\x1c\x00\x00\x00\x00\x00\x00\x00}\x94(\x8c\x01a\x94]\x94(K\x01J\xfe\xff\xff\xffM,\x01e\x8c\x01b\x94N\x88\x86\x94u.";
        for bytes in [&two[..], &four[..]] {
            let Loaded { heap, root, end } = read(bytes).unwrap();
            assert_eq!(end, bytes.len());
            let [(a, list), (b, pair)] = heap.dict(root).unwrap() else {
                panic!("{heap:?}")
            };
            assert_eq!((heap.text(*a), heap.text(*b)), (Some("a"), Some("b")));
            let numbers = [1, -2, 300].map(Value::Int);
            assert_eq!(heap.sequence(*list), Some(&numbers[..]));
            assert_eq!(
                heap.sequence(*pair),
                Some(&[Value::None, Value::Bool(true)][..])
            );
        }
    }

    #[test]
    fn long_integers_keep_their_sign() {
        let value = |bytes: &[u8]| read(bytes).unwrap().root;
        assert_eq!(value(b"\x80\x02\x8a\x01\xff."), Value::Int(-1));
        assert_eq!(value(b"\x80\x02\x8a\x02\xff\x00."), Value::Int(255));
        assert_eq!(value(b"\x80\x02\x8a\x00."), Value::Int(0));
        let nine = b"\x80\x02\x8a\x09\xff\xff\xff\xff\xff\xff\xff\xff\x00.";
        assert_eq!(value(nine), Value::Long);
        let nine = b"\x80\x02\x8a\x09\xfe\xff\xff\xff\xff\xff\xff\xff\xff.";
        assert_eq!(value(nine), Value::Int(-2));
    }

    #[test]
    fn a_call_of_anything_else_is_opaque_and_named() {
        // `os.system("true")`, in both dialects.
        for bytes in [
            &b"\x80\x02cos\nsystem\nX\x04\x00\x00\x00true\x85R."[..],
            b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x04true\x85R.",
        ] {
            let loaded = read(bytes).unwrap();
            assert!(matches!(
                loaded.heap.object(loaded.root),
                Some(Object::Opaque(_))
            ));
            assert_eq!(loaded.heap.class(loaded.root).unwrap(), "os.system");
        }
    }

    #[test]
    fn opaque_objects_take_items_and_attributes() {
        // `{"args": Namespace(lr=1), "log": Counter(a=1)}` with a class's own way to be pickled each.
        let bytes = b"\x80\x02}(X\x04\x00\x00\x00argscargparse\nNamespace\n)\x81}X\x02\x00\x00\x00lrK\x01sb\
            X\x03\x00\x00\x00logcown\nCounter\n)R(X\x01\x00\x00\x00aK\x01uu.";
        let loaded = read(bytes).unwrap();
        for (key, class) in [("args", "argparse.Namespace"), ("log", "own.Counter")] {
            let value = loaded.heap.entry(loaded.root, key).unwrap();
            assert_eq!(loaded.heap.class(value).as_deref(), Some(class));
        }
    }

    #[test]
    fn malformed_programs_give_errors() {
        for bytes in [
            &b""[..],
            b"\x80",
            b"\x80\x07.",
            b".",
            b"t.",
            b"(.",
            b"\x80\x02h\x05.",
            b"\x80\x02Na.",
            b"\x80\x02}K\x01K\x02K\x03(u.",
            b"\x80\x02(K\x01d.",
            b"\x80\x02X\xff\xff\xff\xffab.",
            b"\x80\x02\x8d\xff\xff\xff\xff\xff\xff\xff\xffab.",
            b"\x80\x02\x8b\xff\xff\xff\x7fab.",
            b"\x80\x02cno end",
            b"\x80\x02N)R.",
            b"\x80\x02ccollections\nOrderedDict\nNR.",
            b"\x80\x02ccollections\nOrderedDict\n]N\x61\x85R.",
            b"\x80\x02NQ.",
            b"\x80\x02NNb.",
            b"\x80\x02\x82\x01.",
        ] {
            let text = fault(bytes);
            assert!(text.contains("pickle at byte"), "{bytes:?}: {text}");
        }
    }

    #[test]
    fn a_list_that_holds_itself_is_no_trouble() {
        let loaded = read(b"\x80\x02]q\x00h\x00a.").unwrap();
        assert_eq!(loaded.heap.sequence(loaded.root), Some(&[loaded.root][..]));
    }

    #[test]
    fn endless_programs_are_cut_off() {
        let text = fault(&vec![b'N'; MAX_INSTRUCTIONS + 1]);
        assert!(text.contains("instructions"), "{text}");
    }
}
