//! Makes the shipped filter crash when a test asks for it.
//!
//! The filter has no hook for that, and must not have one. So a test sews a trap onto the built module: one of its
//! exports is led through a few instructions of ours, which crash (`unreachable`, as a panic does) or go on to what was
//! exported. Every byte of the filter's own code stays as it is shipped.

use anyhow::{Context, Result, anyhow, ensure};

/// Sections of a module, by their numbers in the WebAssembly specification.
const TYPES: u8 = 1;
const IMPORTS: u8 = 2;
const FUNCTIONS: u8 = 3;
const EXPORTS: u8 = 7;
const CODE: u8 = 10;

/// When the filter crashes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trap {
    /// On request headers that are at least so many.
    RequestHeaders(u32),
    /// On the callback of a request body of which exactly so many bytes are there.
    RequestBody(u32),
    /// On response headers that are at least so many.
    ResponseHeaders(u32),
    /// While the `n`th VM of the process (from 0: the canary, the main thread's, each worker's) is configured.
    ConfigurationOf(u32),
    /// On the answer to a callout whose body has exactly so many bytes.
    Answer(u32),
}

impl Trap {
    fn export(self) -> &'static str {
        match self {
            Self::RequestHeaders(_) => "proxy_on_request_headers",
            Self::RequestBody(_) => "proxy_on_request_body",
            Self::ResponseHeaders(_) => "proxy_on_response_headers",
            Self::ConfigurationOf(_) => "proxy_on_configure",
            Self::Answer(_) => "proxy_on_http_call_response",
        }
    }

    /// Instructions that leave on the stack whether to crash.
    fn condition(self, module: &Module) -> Result<Vec<u8>> {
        // local.get PARAMETER, i32.const NUMBER, COMPARISON
        let compare = |parameter: u8, number: u32, comparison: u8| {
            let mut code = vec![0x20, parameter, 0x41];
            code.extend(signed(number.into()));
            code.push(comparison);
            code
        };
        const EQ: u8 = 0x46;
        const GE_U: u8 = 0x4f;
        Ok(match self {
            Self::RequestHeaders(count) | Self::ResponseHeaders(count) => compare(1, count, GE_U),
            Self::RequestBody(size) => compare(1, size, EQ),
            Self::Answer(size) => compare(3, size, EQ),
            Self::ConfigurationOf(nth) => is_nth_vm(nth, module.imported("proxy_set_shared_data")?),
        })
    }
}

/// Whether this is the `n`th VM that asks.
///
/// `proxy_set_shared_data` with a `cas` that is nobody's succeeds for the first VM that names a key, and for it alone.
/// The keys are the first bytes of the memory, one more for each VM.
fn is_nth_vm(nth: u32, set_shared_data: u32) -> Vec<u8> {
    const NOBODYS: u32 = 0x3fff_ffff;
    let mut code = Vec::new();
    for place in 0..=nth {
        // i32.const 0 (key), its length, i32.const 0 (value), its length 0, cas; call; i32.eqz
        let arguments = [0, place + 1, 0, 0, NOBODYS];
        for argument in arguments {
            code.push(0x41);
            code.extend(signed(argument.into()));
        }
        code.push(0x10);
        code.extend(unsigned(set_shared_data.into()));
        code.push(0x45);
        // if (result i32): first with this key, then it is the VM of this place; else ask on
        code.extend([0x04, 0x7f, 0x41, u8::from(place == nth), 0x05]);
    }
    code.extend([0x41, 0]);
    code.extend((0..=nth).map(|_| 0x0b));
    code
}

/// The module with a trap sewn on.
///
/// # Errors
///
/// When it is no module, or has no such export.
pub fn sew(module: &[u8], trap: Trap) -> Result<Vec<u8>> {
    let mut module = Module::read(module)?;
    let export = module.export(trap.export())?;
    let kind = module.type_of(export.function)?;
    let parameters = module.parameters(kind)?;
    let condition = trap.condition(&module)?;
    // No locals; `if (condition) unreachable`; then the original with our parameters.
    let mut body = vec![0];
    body.extend(condition);
    body.extend([0x04, 0x40, 0x00, 0x0b]);
    for parameter in 0..parameters {
        body.push(0x20);
        body.extend(unsigned(parameter));
    }
    body.push(0x10);
    body.extend(unsigned(export.function));
    body.push(0x0b);
    let mut entry = unsigned(body.len() as u64);
    entry.extend(body);
    let sewn = module.imported_functions()? + module.count(FUNCTIONS)?;
    module.append(FUNCTIONS, &unsigned(kind))?;
    module.append(CODE, &entry)?;
    module.redirect(&export, sewn)?;
    Ok(module.write())
}

/// A module as its sections.
#[derive(Debug)]
struct Module(Vec<(u8, Vec<u8>)>);

/// An exported function and where its index is written.
#[derive(Debug)]
struct Export {
    function: u64,
    place: std::ops::Range<usize>,
}

impl Module {
    fn read(bytes: &[u8]) -> Result<Self> {
        let mut reader = Reader { bytes, at: 0 };
        ensure!(reader.take(8)? == b"\0asm\x01\0\0\0", "not a WebAssembly module");
        let mut sections = Vec::new();
        while reader.at < bytes.len() {
            let id = reader.byte()?;
            let length = usize::try_from(reader.number()?)?;
            sections.push((id, reader.take(length)?.to_vec()));
        }
        Ok(Self(sections))
    }

    fn write(&self) -> Vec<u8> {
        let mut bytes = b"\0asm\x01\0\0\0".to_vec();
        for (id, content) in &self.0 {
            bytes.push(*id);
            bytes.extend(unsigned(content.len() as u64));
            bytes.extend(content);
        }
        bytes
    }

    fn section(&self, id: u8) -> Result<Reader<'_>> {
        let found = self.0.iter().find(|(section, _)| *section == id);
        let (_, bytes) = found.with_context(|| format!("the module has no section {id}"))?;
        Ok(Reader { bytes, at: 0 })
    }

    fn replace(&mut self, id: u8, content: Vec<u8>) {
        let section = self.0.iter_mut().find(|(section, _)| *section == id);
        section.into_iter().for_each(|(_, bytes)| *bytes = content.clone());
    }

    /// How many entries a section has.
    fn count(&self, id: u8) -> Result<u64> {
        self.section(id)?.number()
    }

    fn append(&mut self, id: u8, entry: &[u8]) -> Result<()> {
        let mut reader = self.section(id)?;
        let mut content = unsigned(reader.number()? + 1);
        content.extend(reader.rest());
        content.extend(entry);
        self.replace(id, content);
        Ok(())
    }

    fn redirect(&mut self, export: &Export, function: u64) -> Result<()> {
        let mut content = self.section(EXPORTS)?.bytes.to_vec();
        content.splice(export.place.clone(), unsigned(function));
        self.replace(EXPORTS, content);
        Ok(())
    }

    fn export(&self, name: &str) -> Result<Export> {
        let mut reader = self.section(EXPORTS)?;
        for _ in 0..reader.number()? {
            let found = reader.name()? == name.as_bytes();
            let kind = reader.byte()?;
            let start = reader.at;
            let function = reader.number()?;
            if found && kind == 0 {
                let place = start..reader.at;
                return Ok(Export { function, place });
            }
        }
        Err(anyhow!("the module exports no `{name}`"))
    }

    /// Module and name of each imported function. The filter imports nothing else.
    fn imports(&self) -> Result<Vec<(String, u64)>> {
        let mut reader = self.section(IMPORTS)?;
        let mut imports = Vec::new();
        for _ in 0..reader.number()? {
            reader.name()?;
            let name = String::from_utf8_lossy(reader.name()?).into_owned();
            ensure!(reader.byte()? == 0, "`{name}` is imported and no function");
            imports.push((name, reader.number()?));
        }
        Ok(imports)
    }

    fn imported_functions(&self) -> Result<u64> {
        Ok(self.imports()?.len() as u64)
    }

    fn imported(&self, wanted: &str) -> Result<u32> {
        let place = self.imports()?.iter().position(|(name, _)| name == wanted);
        Ok(u32::try_from(
            place.with_context(|| format!("the module imports no `{wanted}`"))?,
        )?)
    }

    /// The type of a function that is not imported.
    fn type_of(&self, function: u64) -> Result<u64> {
        let place = function
            .checked_sub(self.imported_functions()?)
            .context("an import is exported")?;
        let mut reader = self.section(FUNCTIONS)?;
        ensure!(place < reader.number()?, "no such function");
        (0..place).try_for_each(|_| reader.number().map(drop))?;
        reader.number()
    }

    /// How many parameters functions of a type take.
    fn parameters(&self, kind: u64) -> Result<u64> {
        let mut reader = self.section(TYPES)?;
        reader.number()?;
        for _ in 0..kind {
            reader.function_type()?;
        }
        reader.function_type()
    }
}

/// Reads the binary format.
#[derive(Debug)]
struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn rest(&self) -> &'a [u8] {
        self.bytes.get(self.at..).unwrap_or_default()
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8]> {
        let taken = self.rest().get(..count).context("the module breaks off")?;
        self.at += count;
        Ok(taken)
    }

    fn byte(&mut self) -> Result<u8> {
        Ok(self.take(1)?.first().copied().unwrap_or_default())
    }

    /// An unsigned LEB128 number.
    fn number(&mut self) -> Result<u64> {
        let (mut number, mut shift) = (0, 0);
        loop {
            let byte = self.byte()?;
            ensure!(shift < 63, "a number is too long");
            number |= u64::from(byte & 0x7f) << shift;
            shift += 7;
            if byte & 0x80 == 0 {
                return Ok(number);
            }
        }
    }

    fn name(&mut self) -> Result<&'a [u8]> {
        let length = usize::try_from(self.number()?)?;
        self.take(length)
    }

    /// Passes over a function's type; answers how many parameters it has.
    fn function_type(&mut self) -> Result<u64> {
        ensure!(self.byte()? == 0x60, "a type that is no function's");
        let parameters = self.number()?;
        self.take(usize::try_from(parameters)?)?;
        let results = usize::try_from(self.number()?)?;
        self.take(results)?;
        Ok(parameters)
    }
}

/// Writes an unsigned LEB128 number.
fn unsigned(mut number: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    loop {
        let low = u8::try_from(number & 0x7f).unwrap_or_default();
        number >>= 7;
        if number == 0 {
            bytes.push(low);
            return bytes;
        }
        bytes.push(low | 0x80);
    }
}

/// Writes a signed LEB128 number that is not negative.
fn signed(number: u64) -> Vec<u8> {
    let mut bytes = unsigned(number);
    if let Some(last) = bytes.last_mut().filter(|last| **last & 0x40 != 0) {
        // Its top bit would read as a sign.
        *last |= 0x80;
        bytes.push(0);
    }
    bytes
}
