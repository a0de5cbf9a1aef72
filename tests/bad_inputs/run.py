#!/usr/bin/env python3
"""Runs the cases (cases.json by default) against a proxy on loopback and judges each answer.

  run.py --proxy 127.0.0.1:3128 --mode forward|reverse [--origin-port 8000] [--only NAME] [--slow] [--out r.json]

The stub origin listens on 127.0.0.1:ORIGIN_PORT (in reverse mode the proxy must have it as its origin; in forward
mode the proxy must be allowed to reach that one loopback port). A second "secret" listener on 0.0.0.0 and :: must never
be reached (SSRF). Best run in a network namespace with 169.254.169.254/32 and fd00:ec2::254/128 on lo.
Only the standard library is used."""
import argparse,asyncio,json,os,re,socket,struct,sys,time
A=argparse.ArgumentParser();A.add_argument('--proxy',required=True);A.add_argument('--mode',default='forward');A.add_argument('--origin-port',type=int,default=8000)
A.add_argument('--only');A.add_argument('--slow',action='store_true');A.add_argument('--out');A.add_argument('--cases',default=os.path.join(os.path.dirname(os.path.abspath(__file__)),'cases.json'));A.add_argument('--suffix',default='',help='appended to every path, e.g. /pool/a_1.0_amd64.deb, so that the cached classes are tried too');A.add_argument('--wait',type=float,default=3.0);A.add_argument('--metadata-port',type=int,default=80);A.add_argument('--skip',action='append',default=[],help='leave this case out')
a=A.parse_args()
PH,PP=a.proxy.rsplit(':',1);PP=int(PP);SECRET=a.origin_port+777;HOST=f'127.0.0.1:{a.origin_port}'
log=[];secret=[];via=['unknown'];upraw={}
MIRROR=[b'x-forwarded-host',b'x-host',b'x-original-url',b'x-rewrite-url',b'forwarded',b'x-forwarded-scheme',b'x-forwarded-port',b'x-forwarded-prefix',b'origin',b'referer',b'user-agent',b'cookie',b'authorization',b'x-http-method-override']
def expand(s,base=''):
    s=s.replace('{BASE}',f'http://{HOST}' if a.mode=='forward' else '').replace('{HOST}',HOST).replace('{SECRET}',str(SECRET)).replace('{PROXY}',a.proxy).replace('{ORIGIN_PORT}',str(a.origin_port)).replace('{VIA}',via[0])
    s=s.replace('{P}',base)
    return s
REP=re.compile(r'<<(\d+)\*(.*?)>>',re.S)
def rep(s): return REP.sub(lambda m:m.group(2)*int(m.group(1)),s)
CMD=re.compile(r'<<(FIN|CLOSE|RST|NEXT|SLEEP [\d.]+|NOREAD [\d.]+|DRIP \d+ [\d.]+|INF .*?)>>',re.S)
async def play(s,w):
    """write the script s to writer w"""
    pos=0
    for m in list(CMD.finditer(s))+[None]:
        part=s[pos:m.start()] if m else s[pos:]
        if part:
            w.write(rep(part).encode('latin-1'));await w.drain()
        if not m: return
        pos=m.end();k=m.group(1).split(' ',1)
        if k[0]=='FIN':
            try: w.write_eof()
            except Exception: pass
        elif k[0]=='CLOSE': w.close();return
        elif k[0]=='RST':
            await asyncio.sleep(.2);w.get_extra_info('socket').setsockopt(socket.SOL_SOCKET,socket.SO_LINGER,struct.pack('ii',1,0));w.close();return
        elif k[0]=='SLEEP': await asyncio.sleep(float(k[1]))
        elif k[0]=='NOREAD': await asyncio.sleep(float(k[1]))
        elif k[0]=='DRIP':
            n,d=k[1].split()
            for _ in range(int(n)): w.write(b'a');await w.drain();await asyncio.sleep(float(d))
        elif k[0]=='INF':
            blk=k[1].replace('{32768}','z'*32768).encode('latin-1');t=time.time();n=0
            while time.time()-t<6 and n<200_000_000: w.write(blk);await w.drain();n+=len(blk)
async def origin(r,w):
    try:
        while True:
            head=b''
            while b'\r\n\r\n' not in head:
                d=await r.readline()
                if not d: return
                head+=d
                if len(head)>3_000_000: return
            line=head.split(b'\r\n')[0].lstrip();f=line.split(b' ');tgt=f[1] if len(f)>1 else b''
            hs=[x.split(b':',1) for x in head.split(b'\r\n')[1:] if b':' in x];hd={}
            for k,v in hs: hd.setdefault(k.strip().lower(),[]).append(v.strip())
            body=b'';cl=hd.get(b'content-length');te=hd.get(b'transfer-encoding')
            e=dict(head=head,target=tgt,method=f[0],hd=hd,body=b'');log.append(e)
            if te and b'chunked' in te[-1].lower():
                while True:
                    l=await asyncio.wait_for(r.readline(),5);body+=l
                    try:n=int(l.split(b';')[0].strip() or b'0',16)
                    except ValueError:e['badchunk']=1;break
                    if n==0:
                        while True:
                            l=await asyncio.wait_for(r.readline(),5);body+=l
                            if l in(b'\r\n',b'\n',b''):break
                        break
                    body+=await asyncio.wait_for(r.readexactly(n+2),5)
            elif cl and cl[0].isdigit(): body=await asyncio.wait_for(r.readexactly(min(int(cl[0]),1<<20)),5)
            e['body']=body
            v=hd.get(b'via');
            if v and via[0]=='unknown':
                m=re.match(rb'\S+\s+([^\s,(]+)',v[-1].split(b',')[-1].strip());via[0]=m.group(1).decode('latin-1') if m else 'unknown'
            path=re.sub(rb'^http://[^/]*',b'',tgt);m=re.match(rb'/u/([a-z0-9-]+)/',path)
            if m and m.group(1).decode() in upraw:
                await play(expand(upraw[m.group(1).decode()],path.decode('latin-1')),w)
                if w.is_closing(): return
                continue
            n=re.search(rb'size=(\d+)',tgt);mir=b''.join(k+b'='+b','.join(hd[k])+b'\n' for k in MIRROR if k in hd)
            b=b'METHOD='+f[0]+b'\nTARGET='+path+b'\nHOST='+b','.join(hd.get(b'host',[]))+b'\nAE='+b','.join(hd.get(b'accept-encoding',[]))+b'\n'+mir+b'END\n'
            if n: b+=b'z'*int(n.group(1))
            x=b''
            if b'vary=1' in tgt: x=b'Vary: Accept-Encoding\r\n'
            if b'vary=star' in tgt: x=b'Vary: *\r\n'
            w.write(b'HTTP/1.1 200 OK\r\nCache-Control: max-age=600\r\nETag: "v1"\r\nContent-Type: text/plain\r\n'+x+b'Content-Length: %d\r\n\r\n'%len(b)+(b'' if f[0]==b'HEAD' else b));await w.drain()
    except (ConnectionError,asyncio.IncompleteReadError,asyncio.TimeoutError,ValueError,OSError): pass
    finally:
        try:w.close()
        except Exception:pass
async def sec(r,w):
    secret.append(w.get_extra_info('sockname'))
    try:w.write(b'HTTP/1.1 200 OK\r\nContent-Length: 6\r\nConnection: close\r\n\r\nSECRET');await w.drain()
    except OSError:pass
    w.close()
async def talk(s,wait):
    """send one connection's script; returns dict(data, closed, secs)"""
    t=time.time();out=b'';closed=False
    try: r,w=await asyncio.open_connection(PH,PP,limit=1<<26)
    except OSError as e: return dict(data=b'',closed=True,secs=0,err=str(e))
    noread='NOREAD' in s
    pt=asyncio.ensure_future(play(s,w))
    if noread:
        try: await pt
        except OSError: pass
    try:
        while len(out)<30_000_000:
            d=await asyncio.wait_for(r.read(1<<16),wait)
            if not d: closed=True;break
            out+=d
            if time.time()-t>max(30,wait+5):break
            if done(out): wait=min(wait,.4)
    except asyncio.TimeoutError: pass
    except OSError: closed=True
    pt.cancel()
    try: await pt
    except BaseException: pass
    try: w.get_extra_info('socket').setsockopt(socket.SOL_SOCKET,socket.SO_LINGER,struct.pack('ii',1,0));w.close()
    except Exception: pass
    return dict(data=out,closed=closed,secs=time.time()-t)
def parse(d):
    """list of (status, headers, body, complete)"""
    res=[]
    while d:
        m=re.match(rb'HTTP/1\.[01] (\d+)[^\r\n]*\r?\n',d)
        if not m: res.append((0,{},d,False));break
        i=d.find(b'\r\n\r\n')
        if i<0: res.append((int(m.group(1)),{},b'',False));break
        h={}
        for l in d[:i].split(b'\r\n')[1:]:
            k,_,v=l.partition(b':');h.setdefault(k.strip().lower(),[]).append(v.strip())
        st=int(m.group(1));d=d[i+4:]
        if st<200 or st in(204,304): res.append((st,h,b'',True));continue
        if h.get(b'transfer-encoding',[b''])[-1].lower()==b'chunked':
            b=b'';ok=False
            while True:
                j=d.find(b'\r\n')
                if j<0:break
                try:n=int(d[:j].split(b';')[0],16)
                except ValueError:break
                if n==0:
                    k=d.find(b'\r\n\r\n',j-0);ok=True;d=d[j+4:] if k<0 or k==j else d[k+4:];break
                b+=d[j+2:j+2+n]
                if len(d)<j+4+n: d=b'';break
                d=d[j+4+n:]
            res.append((st,h,b,ok))
            if not ok: break
        elif b'content-length' in h and h[b'content-length'][0].isdigit():
            n=int(h[b'content-length'][0]);b=d[:n];res.append((st,h,b,len(b)==n));d=d[n:]
            if len(b)<n: break
        else: res.append((st,h,d,None));break
    return res
def done(d):
    p=parse(d) if len(d)<2_000_000 else []
    return bool(p) and p[-1][3] is True and p[-1][0]>=200
BAD=re.compile(rb'\x00|(?<!\r)\n|\r(?!\n)')
def clean(es):
    for e in es:
        h=e['hd']
        if len(h.get(b'content-length',[]))>1 or len(h.get(b'transfer-encoding',[]))>1 or (b'content-length' in h and b'transfer-encoding' in h): return False
        if any(not v.isdigit() or (len(v)>1 and v[:1]==b'0') for v in h.get(b'content-length',[])): return False
        if any(v.lower()!=b'chunked' for v in h.get(b'transfer-encoding',[])): return False
        if BAD.search(e['head']) or re.search(rb'\r\n[ \t]',e['head']) or len(h.get(b'host',[]))!=1 or e.get('badchunk'): return False
        if re.search(rb'(?m)^[0-9a-fA-F]+[ \t]*;',e['body']): return False
        if b'@' in h[b'host'][0] or b'@' in e['target'].split(b'/',3)[2:3]: return False
    return True
def tok(t,o):
    rs=o['resp'];fin=[r for r in rs if r[0]>=200];st=(fin or rs)[0][0] if rs else None;last=o['lastresp']
    if re.fullmatch(r'\d{3}',t): return st==int(t)
    if re.fullmatch(r'\dxx',t): return st is not None and st//100==int(t[0]) or (t=='1xx' and any(r[0]//100==1 for r in rs))
    if t=='close': return not rs and o['closed'] or (o['closed'] and st is not None and st>=400)
    if t=='silence': return not rs and not o['closed']
    if t=='no-upstream': return not o['es']
    if t.startswith('upstream<='): return len(o['es'])<=int(t[10:])
    if t.startswith('upstream>='): return len(o['es'])>=int(t[10:])
    if t=='no-ssrf': return not o['secret'] and b'SECRET' not in o['data']
    if t=='no-evil': return not any(b'evil' in e['target'] for e in o['es'])
    if t=='clean': return clean(o['es'])
    if t=='not-cached': return o['refetched'] is not False
    if t=='truncated': return not rs or any(r[3] is False for r in rs) or (o['closed'] and any(r[3] is None for r in rs) and False)
    if t=='timely': return o['secs']<12
    if t=='timely-head': return o['secs']<60
    if t=='no-leak': return b'root:x:0' not in o['data']
    if t=='host-is-target': return all(e['hd'].get(b'host')==[HOST.encode()] for e in o['es'])
    if t=='no-upgrade': return not any(b'upgrade' in e['hd'] or b'http2-settings' in e['hd'] for e in o['es'])
    if t=='no-hop': return not any(k in e['hd'] for e in o['es'] for k in(b'x-hop',b'proxy-authorization',b'keep-alive'))
    if t.startswith('amp<='): return len(o['data'])<=int(t[5:])*600+4096
    if t=='own-body': return all(r is None or r[0]!=200 or b'TARGET='+tg+b'\n' in r[2] for r,tg in o['own'])
    if t=='own-method': return last is None or last[0]!=200 or b'METHOD=GET' in last[2]
    if t=='own-ae': return True if last is None or last[0]!=200 else b'AE=gzip' not in last[2] or not any(b'gzip' in b','.join(e['hd'].get(b'accept-encoding',[])) for e in o['es'][:1])
    if t=='full-body': return last is not None and last[0]==200 and b'END' in last[2] and last[3] is True
    if t=='no-evil-body': return last is None or b'evil' not in re.sub(rb'TARGET=.*',b'',last[2])
    if t=='no-override': return not any(b'x-http-method-override' in e['hd'] for e in o['es'])
    if t=='last-200': return last is not None and last[0]==200
    if t=='no-bare-cr': return not re.search(rb'\r(?!\n)',o['data'].split(b'\r\n\r\n')[0])
    if t=='no-nul': return b'\x00' not in o['data'].split(b'\r\n\r\n')[0]
    if t=='no-fold': return not re.search(rb'\r\n[ \t]',o['data'].split(b'\r\n\r\n')[0])
    if t=='no-cookie-replay': return last is None or b'set-cookie' not in last[1]
    raise SystemExit('unknown token '+t)
def judge(exp,o):
    # a|b&c|d : alternatives of the status part; everything after & must hold too
    alts,*conj=None,
    parts=exp.split('|');common=[]
    if '&' in exp:
        # tokens after an & in the LAST alternative that are not statuses bind to all, unless they stand in an earlier one
        pass
    def ok(p): return all(tok(t,o) for t in p.split('&'))
    lastp=parts[-1].split('&');extra=[t for t in lastp[1:]]
    own='&' in exp and not any('&' in p for p in parts[:-1])
    if own: return any(tok(p.split('&')[0],o) for p in parts) and all(tok(t,o) for t in extra if t!='clean' or o['es'])
    return any(ok(p) for p in parts)
async def alive():
    p=f'/alive/{os.urandom(4).hex()}';t='http://'+HOST+p if a.mode=='forward' else p
    o=await talk(f'GET {t} HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n',5);r=parse(o['data']);return bool(r) and r[0][0]==200
async def main():
    cs=json.load(open(a.cases));srv=[await asyncio.start_server(origin,'127.0.0.1',a.origin_port,limit=1<<24)]
    for h,p in [('0.0.0.0',SECRET),('::',SECRET),('169.254.169.254',a.metadata_port),('fd00:ec2::254',a.metadata_port)]:
        try: srv.append(await asyncio.start_server(sec,h,p))
        except OSError as e: print('no secret listener on',h,p,e,file=sys.stderr)
    if not await alive(): print('proxy does not answer a plain request',file=sys.stderr);sys.exit(2)
    res=[]
    for c in cs:
        if a.only and c['name']!=a.only or c['name'] in a.skip: continue
        if c['mode'] not in('both',a.mode) and not(c['mode']=='slow' and a.slow): continue
        u=os.urandom(5).hex();p0=f'/c/{u}{a.suffix}'
        if c['side']=='upstream':
            upraw[c['name']]=c['raw'];p0=f'/u/{c["name"]}/{u}{a.suffix}';steps=[f'GET {{BASE}}{p0} HTTP/1.1\r\nHost: {{HOST}}\r\n\r\n']
        else: steps=c['raw'].split('<<NEXT>>')
        secret.clear();own=[];alld=b'';o={};n0=len(log);first=None;secs=0
        for s in steps:
            wait=75 if c['mode']=='slow' else a.wait
            o=await talk(expand(s,p0),wait);secs+=o['secs'];alld+=o['data'];rs=parse(o['data'])
            if first is None:first=rs
            m=re.match(r'\S+ (?:http://[^/ ]*)?(\S*)',expand(rep(s),p0).split('\r\n')[0]);own.append(((([r for r in rs if r[0]>=200]or[None])[0]),m.group(1).encode('latin-1') if m else b''))
        mark=len(log);o['resp']=first or [];fl=[r for r in parse(o['data']) if r[0]>=200];o['lastresp']=fl[0] if fl else None
        o.update(data=alld,own=own,secs=secs,secret=list(secret),es=[e for e in log[n0:mark] if u.encode() in e['head'] or b'evil' in e['target']])
        o['refetched']=None
        if 'not-cached' in c['expect'] or 'no-cookie-replay' in c['expect']:
            k=len(log);r2=await talk(expand(f'GET {{BASE}}{p0} HTTP/1.1\r\nHost: {{HOST}}\r\nConnection: close\r\n\r\n',p0),a.wait);o['refetched']=len(log)>k
            pr=[r for r in parse(r2['data']) if r[0]>=200]
            if 'no-cookie-replay' in c['expect']: o['lastresp']=pr[0] if pr and not o['refetched'] else None
            if o['refetched'] is False and not(pr and pr[0][0] in(200,206,304,999)): o['refetched']=None
        up=await alive()
        if not up: await asyncio.sleep(1.5);up=await alive()
        good=judge(c['expect'],o) and up
        got='/'.join(str(r[0])+('' if r[3] is True else '?' if r[3] is None else '!cut') for r in o['resp'][:3]) or ('closed' if o['closed'] else 'silence')
        res.append(dict(name=c['name'],group=c['group'],ok=good,alive=up,got=got,upstream=len(o['es']),ssrf=len(o['secret']),refetched=o['refetched'],bytes=len(o['data']),expect=c['expect']))
        if not good: print(f"FAIL {c['name']:34s} got={got} upstream={len(o['es'])} ssrf={len(o['secret'])} refetched={o['refetched']} bytes={len(o['data'])} alive={up}  want {c['expect']}",flush=True)
    g={}
    for r in res: x=g.setdefault(r['group'],[0,0]);x[0]+=r['ok'];x[1]+=1
    print('TOTAL',sum(r['ok'] for r in res),'of',len(res),{k:f'{v[0]}/{v[1]}' for k,v in g.items()})
    if a.out: json.dump(res,open(a.out,'w'),indent=1)
    sys.stdout.flush();os._exit(0 if all(r['ok'] for r in res) else 1)
asyncio.run(main())
